"""The record: collections, edits, versions and their audit log. Never imports torch."""
