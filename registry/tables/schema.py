"""Imports every table: Alembic compares the database with these."""

from registry.tables import access, answers, audit, collections, edits, idempotency, jobs, versions, webhooks
from registry.tables.orm import Base

__all__ = [
    "access", "answers", "audit", "collections", "edits", "idempotency", "jobs", "metadata", "versions", "webhooks",
]  # fmt: skip

metadata = Base.metadata
