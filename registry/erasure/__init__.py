"""Erases the content of edits at a person's request, while the digests and the chain of events stay."""
