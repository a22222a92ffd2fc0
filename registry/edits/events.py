"""Events of existing batches."""

from typing import Any

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.base.vocabulary import Action
from registry.tables.edits import Batch


def record(
    session: Session, action: Action, actor: Actor, batch: Batch, details: dict[str, Any], reason: str = ""
) -> None:
    """Record what was done with a batch. Its edits do not change, so the event has one digest for before and after."""
    audit.record(
        session,
        action,
        actor,
        f"batch/{batch.id}",
        collection_id=batch.collection_id,
        before=batch.edits_digest,
        after=batch.edits_digest,
        reason=reason,
        details=details,
    )
