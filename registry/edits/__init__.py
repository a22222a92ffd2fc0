"""Corrections as records: read, checked, stored and found."""
