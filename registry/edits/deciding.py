"""Deciding on batches."""

from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.collections import repository as collections
from registry.edits import repository, service
from registry.edits.models import Batch
from registry.edits.repository import DECIDED
from registry.edits.validation import same_target
from registry.errors import InvalidEdits, RecordProblem, SelfApproval, WrongState
from registry.jobs import service as queue
from registry.vocabulary import Action, BatchState


def approve(session: Session, batch_id: int, actor: Actor, reason: str = "") -> Batch:
    """Decide for a batch: its job is queued in the same transaction. A failed batch may be approved again.

    Raises WrongState, SelfApproval, or InvalidEdits where an edit by now contradicts one that stands.
    """
    # The collection first, as everywhere: two approvals must not both find a prompt free.
    collection = collections.lock(session, service.get(session, batch_id).collection_id)
    batch = service.lock(session, batch_id)
    if batch.state not in (BatchState.SUBMITTED, BatchState.FAILED):
        raise _wrong_state(batch, "approved")
    if batch.submitted_by == actor.name and not collection.self_approval:
        raise SelfApproval(
            f"Batch {batch.id} was submitted by {actor.name}, who therefore cannot approve it.",
            "Ask somebody else to approve it, or create the collection with self-approval allowed.",
        )
    problems = _contradictions(session, batch)
    if problems:
        raise InvalidEdits(
            f"Batch {batch.id} cannot be approved: {len(problems)} of its edits meet edits that came first.",
            "Reject it, and submit it again with on_conflict=replace or on_conflict=skip.",
            problems,
        )
    batch.state = BatchState.APPROVED
    _decide(batch, actor, reason)
    job = queue.enqueue(session, batch)
    _record_decision(session, Action.BATCH_APPROVE, batch, actor, reason, {"job": job.id})
    return batch


def reject(session: Session, batch_id: int, actor: Actor, reason: str) -> Batch:
    """Decide against a batch. Raises WrongState."""
    batch = service.lock(session, batch_id)
    if batch.state not in (BatchState.SUBMITTED, BatchState.FAILED):
        raise _wrong_state(batch, "rejected")
    batch.state = BatchState.REJECTED
    _decide(batch, actor, reason)
    _record_decision(session, Action.BATCH_REJECT, batch, actor, reason, {})
    return batch


def _contradictions(session: Session, batch: Batch) -> list[RecordProblem]:
    """Edits of the batch for whose prompt another edit acts or is on its way, unless they replace it."""
    mine = {edit.prompt_key: edit for edit in repository.of_batch(session, batch.id)}
    standing = repository.standing_by_key(session, batch.collection_id, mine, pending=DECIDED, except_batch=batch.id)
    problems = []
    for other in standing:
        edit = mine[other.prompt_key]
        if edit.replaces == other.id:
            continue
        verb = "repeats" if same_target(edit.target, other.target) else "contradicts"
        problems.append(
            RecordProblem(
                position=edit.position,
                code="duplicate" if verb == "repeats" else "contradiction",
                detail=f"Edit {edit.id} {verb} edit {other.id}, whose target is {other.target!r}.",
                remedy=f"Submit it again with replaces={other.id}, or without this edit.",
                prompt=edit.prompt,
                target=edit.target,
                other_edit_id=other.id,
                other_prompt=other.prompt,
                other_target=other.target,
            )
        )
    return problems


def _decide(batch: Batch, actor: Actor, reason: str) -> None:
    batch.decided_by = actor.name
    batch.decided_at = func.now()
    batch.reason = reason


def _record_decision(
    session: Session, action: Action, batch: Batch, actor: Actor, reason: str, details: dict[str, Any]
) -> None:
    session.flush()
    session.refresh(batch)
    audit.record(
        session,
        action,
        actor,
        f"batch/{batch.id}",
        collection_id=batch.collection_id,
        before=batch.edits_digest,
        after=batch.edits_digest,
        reason=reason,
        details={"submitted_by": batch.submitted_by, **details},
    )


def _wrong_state(batch: Batch, wish: str) -> WrongState:
    by = f" by {batch.decided_by}" if batch.decided_by else ""
    return WrongState(
        f"Batch {batch.id} cannot be {wish}: it is {batch.state}{by}.",
        "Only a batch that is submitted or failed can be decided on.",
    )
