"""Immutable states of a collection, and the names that point at them."""
