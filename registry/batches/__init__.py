"""Batches of edits: submitting, deciding, cancelling, resubmitting."""
