"""Corrections as records: read, validated, stored and found."""
