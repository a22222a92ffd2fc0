"""Appends to the chain of audit events, in the transaction of the change that an event records."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.audit import repository
from registry.audit.actor import Actor
from registry.audit.chain import hashed_fields
from registry.audit.details import Details
from registry.base.digests import event_hash
from registry.tables.audit import AuditEvent


def record(
    session: Session,
    details: Details,
    actor: Actor,
    subject: str,
    *,
    collection_id: int | None = None,
    before: str | None = None,
    after: str | None = None,
    reason: str = "",
) -> AuditEvent:
    """Append one event. Call it last: it holds the chain's lock until the transaction ends.

    details: these say which action it is. before, after: digests of the subject's content.
    """
    tip = repository.lock_tip(session)
    event = AuditEvent(
        seq=tip.seq + 1,
        at=tip.now,
        actor=actor.name,
        role=str(actor.role),
        action=str(details.action),
        collection_id=collection_id,
        subject=subject,
        before=before,
        after=after,
        reason=reason,
        request_id=actor.request_id,
        details=details.stored(),
        previous_hash=tip.hash,
    )
    event.hash = event_hash(hashed_fields(event))
    repository.add(session, event)
    return event


def log(
    session: Session, *, collection_id: int | None, subject: str | None, before: int | None, limit: int
) -> Sequence[AuditEvent]:
    """Return events, newest first; `before` is the seq at which the last page ended."""
    return repository.page(session, collection_id=collection_id, subject=subject, before=before, limit=limit)
