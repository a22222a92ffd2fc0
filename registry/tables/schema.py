"""Every table, imported: what Alembic compares the database with."""

from registry.tables import access, audit, collections, edits, idempotency, jobs, versions, webhooks
from registry.tables.orm import Base

__all__ = ["access", "audit", "collections", "edits", "idempotency", "jobs", "metadata", "versions", "webhooks"]

metadata = Base.metadata
