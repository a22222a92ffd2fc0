"""Appends to the chain of audit events, in the transaction of the change that an event records."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.audit import repository
from registry.audit.actor import Actor
from registry.audit.chain import hashed_fields
from registry.audit.details import Details
from registry.audit.repository import Tip
from registry.audit.signing import event_signature, public_text
from registry.audit.trust import of, successor
from registry.base.digests import event_hash
from registry.base.errors import NoSigningKey
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

    details: these say which action it is. before, after: digests of the subject's content. Raises NoSigningKey where
    the registry's events are signed and this process has no key.
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
    _sign(session, event, tip)
    repository.add(session, event)
    return event


def _sign(session: Session, event: AuditEvent, tip: Tip) -> None:
    """Sign the event with the process's key. Raises NoSigningKey if it has none, or a replaced one."""
    signing = of(session)
    if signing.signer is not None:
        event.signed_by = public_text(signing.signer)
        if tip.signer not in (None, event.signed_by) and (next_one := successor(session, event.signed_by)):
            raise NoSigningKey(
                f"The key that this process signs with was replaced at event {next_one.seq}: nothing was changed.",
                "Start it again with the new key. `melo audit log --subject signer` shows who replaced it.",
            )
        event.signature = event_signature(signing.signer, event.hash)
    elif signing.trust is not None or tip.is_signed:
        raise NoSigningKey(
            "This registry's events are signed, and this process has no key to sign with: nothing was changed.",
            "Set MELO_SIGNING_KEY to the key that the API has, or start this process with its MELO_HOME.",
        )


def log(
    session: Session, *, collection_id: int | None, subject: str | None, before: int | None, limit: int
) -> Sequence[AuditEvent]:
    """Return events, newest first; `before` is the seq at which the last page ended."""
    return repository.page(session, collection_id=collection_id, subject=subject, before=before, limit=limit)
