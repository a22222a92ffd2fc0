"""Immutable states of a collection, the names that point at them, and who may set these."""
