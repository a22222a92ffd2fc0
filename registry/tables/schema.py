"""Imports every table: Alembic compares the database with these."""

from registry.tables import access, audit, collections, edits, idempotency, jobs, versions, webhooks
from registry.tables.orm import Base

__all__ = ["access", "audit", "collections", "edits", "idempotency", "jobs", "metadata", "versions", "webhooks"]

metadata = Base.metadata
