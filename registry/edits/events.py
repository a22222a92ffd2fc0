"""Events of existing batches."""

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import Details
from registry.tables.edits import Batch


def record(session: Session, details: Details, actor: Actor, batch: Batch, reason: str = "") -> None:
    """Record what was done with a batch. Its edits do not change, so the event has one digest for before and after."""
    audit.record(
        session,
        details,
        actor,
        f"batch/{batch.id}",
        collection_id=batch.collection_id,
        before=batch.edits_digest,
        after=batch.edits_digest,
        reason=reason,
    )
