"""Backup and restore of the whole record as one file: verified before it is loaded, and never half restored."""
