"""Immutable states of a collection, the aliases that point at them, and who may set aliases."""
