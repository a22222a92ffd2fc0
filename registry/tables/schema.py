"""Imports every table: Alembic compares the database with these."""

from registry.tables import access, answers, audit, collections, edits, idempotency, jobs, versions, webhooks
from registry.tables.orm import Base

__all__ = [
    "OWN_SCHEMA", "access", "answers", "audit", "collections", "edits", "idempotency", "jobs", "metadata", "versions",
    "webhooks",
]  # fmt: skip

metadata = Base.metadata

# The schema in which a session finds the registry's tables, as SQL: it need not be public, nor the first in its path.
OWN_SCHEMA = "(SELECT relnamespace FROM pg_class WHERE pg_class.oid = to_regclass('audit_events'))"
