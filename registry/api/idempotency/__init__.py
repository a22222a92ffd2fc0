"""Requests that may be repeated: one key, one effect, one answer."""
