"""Every table, imported: what Alembic compares the database with."""

from registry.audit import models as audit
from registry.collections import models as collections
from registry.edits import models as edits
from registry.jobs import models as jobs
from registry.orm import Base
from registry.versions import models as versions

__all__ = ["audit", "collections", "edits", "jobs", "metadata", "versions"]

metadata = Base.metadata
