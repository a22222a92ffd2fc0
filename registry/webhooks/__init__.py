"""Webhooks: other programs are told of versions, aliases and batches as soon as they change."""
