"""Requests that may be sent again: one key, one effect, one answer."""
