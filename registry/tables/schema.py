"""Every table, imported: what Alembic compares the database with."""

from registry.access import models as access
from registry.audit import models as audit
from registry.collections import models as collections
from registry.edits import models as edits
from registry.idempotency import models as idempotency
from registry.jobs import models as jobs
from registry.orm import Base
from registry.versions import models as versions
from registry.webhooks import models as webhooks

__all__ = ["access", "audit", "collections", "edits", "idempotency", "jobs", "metadata", "versions", "webhooks"]

metadata = Base.metadata
