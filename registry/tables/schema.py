"""Every table, imported: what Alembic compares the database with."""

from registry.tables import access
from registry.tables import audit
from registry.tables import collections
from registry.tables import edits
from registry.tables import idempotency
from registry.tables import jobs
from registry.tables.orm import Base
from registry.tables import versions
from registry.tables import webhooks

__all__ = ["access", "audit", "collections", "edits", "idempotency", "jobs", "metadata", "versions", "webhooks"]

metadata = Base.metadata
