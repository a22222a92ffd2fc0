"""Batches of edits: submitted, decided on, cancelled, submitted again."""
