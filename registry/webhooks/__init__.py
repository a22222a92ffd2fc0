"""Webhooks: other programs hear of versions, aliases and batches as soon as they change."""
