"""Submitting corrections, and deciding on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.base_models import RESERVED_TOKENS, count_tokens, find_model
from registry.collections import repository as collections
from registry.collections.models import Collection
from registry.digests import edit_digest, edits_digest
from registry.edits import repository
from registry.edits.models import Batch
from registry.edits.repository import DECIDED
from registry.edits.schemas import ActiveEditView, BatchSummary, BatchView, EditView
from registry.edits.validation import (
    COLLISIONS,
    Record,
    collisions_with,
    collisions_within,
    read_records,
    same_target,
    too_long,
)
from registry.errors import (
    InvalidEdits,
    NotFound,
    RecordProblem,
    SelfApproval,
    UnknownModel,
    WrongState,
)
from registry.jobs import repository as jobs
from registry.jobs import service as queue
from registry.jobs.schemas import JobView
from registry.vocabulary import Action, BatchState, OnConflict


@dataclass(frozen=True)
class Report:
    """What became of a submission."""

    batch: Batch | None  # None: nothing was left to store, or nothing was to be stored
    accepted: int
    skipped: list[RecordProblem] = field(default_factory=list)


def submit(
    session: Session,
    collection: Collection,
    edits: Sequence[dict[str, Any]],
    actor: Actor,
    *,
    message: str = "",
    source: str = "",
    on_conflict: OnConflict = OnConflict.REFUSE,
    skip_invalid: bool = False,
    dry_run: bool = False,
) -> Report:
    """Check the records and store them as one batch that waits for a decision.

    edits: records with the fields of EditIn. Raises InvalidEdits with every problem of every record, and then
    nothing is stored; with skip_invalid, or OnConflict.SKIP for duplicates and contradictions, the records in
    question are left out and reported instead.
    """
    # Two submissions of the same prompt at once must not both find it free.
    collections.lock(session, collection.id)
    records, problems = _check(session, collection, edits, on_conflict)
    skippable: list[RecordProblem] = []
    refused: list[RecordProblem] = []
    for problem in problems:
        may_skip = skip_invalid or (on_conflict == OnConflict.SKIP and problem.code in COLLISIONS)
        (skippable if may_skip else refused).append(problem)
    if refused:
        count = len({each.position for each in refused})
        raise InvalidEdits(
            f"{count} of {len(edits)} records cannot be accepted; nothing was stored.",
            "Correct them, or submit with skip_invalid to store the others.",
            refused,
        )
    left_out = {each.position for each in skippable}
    accepted = [record for record in records if record.position not in left_out]
    if dry_run or not accepted:
        return Report(None, len(accepted), skippable)
    batch = _store(session, collection, accepted, actor, message, source)
    audit.record(
        session,
        Action.BATCH_SUBMIT,
        actor,
        f"batch/{batch.id}",
        collection_id=collection.id,
        after=batch.edits_digest,
        reason=message,
        details={"edits": len(accepted), "source": source, "skipped": sorted(left_out)},
    )
    return Report(batch, len(accepted), skippable)


def _check(
    session: Session, collection: Collection, edits: Sequence[dict[str, Any]], on_conflict: OnConflict
) -> tuple[list[Record], list[RecordProblem]]:
    records, problems = read_records(edits)
    problems += _too_long(collection, records)
    problems += collisions_within(records)
    standing = repository.standing_by_key(session, collection.id, (record.prompt_key for record in records))
    named = (record.replaces for record in records if record.replaces is not None)
    replaceable = {edit.id: edit for edit in repository.standing_by_id(session, collection.id, named)}
    records, collisions = collisions_with(records, standing, replaceable, on_conflict)
    return records, sorted(problems + collisions, key=lambda each: each.position)


def _too_long(collection: Collection, records: Sequence[Record]) -> list[RecordProblem]:
    def count(text: str) -> int | None:
        try:
            return count_tokens(find_model(collection.model), text)
        except UnknownModel:  # the model lies where the workers are: they count exactly
            return None

    return too_long(records, window=collection.window, reserved=RESERVED_TOKENS, count_tokens=count)


def _store(
    session: Session, collection: Collection, records: Sequence[Record], actor: Actor, message: str, source: str
) -> Batch:
    rows = [
        {
            "collection_id": collection.id,
            "position": record.position,
            "prompt": record.edit.prompt,
            "target": record.edit.target,
            "rephrases": record.edit.rephrases,
            "unchanged": record.edit.unchanged,
            "kind": str(record.edit.kind),
            "author": record.edit.author or actor.name,
            "reason": record.edit.reason,
            "source": record.edit.source,
            "replaces": record.replaces,
            "prompt_key": record.prompt_key,
            "digest": edit_digest(
                prompt=record.edit.prompt,
                target=record.edit.target,
                rephrases=record.edit.rephrases,
                unchanged=record.edit.unchanged,
                kind=record.edit.kind,
            ),
        }
        for record in records
    ]
    batch = Batch(
        collection_id=collection.id,
        state=BatchState.SUBMITTED,
        message=message,
        source=source,
        submitted_by=actor.name,
        edit_count=len(rows),
        edits_digest=edits_digest(str(row["digest"]) for row in rows),
    )
    session.add(batch)
    session.flush()
    repository.insert_edits(session, [{**row, "batch_id": batch.id} for row in rows])
    return batch


def approve(session: Session, batch_id: int, actor: Actor, reason: str = "") -> Batch:
    """Decide for a batch: its job is queued in the same transaction. A failed batch may be approved again.

    Raises WrongState, SelfApproval, or InvalidEdits where an edit by now contradicts one that stands.
    """
    # The collection first, as everywhere: two approvals must not both find a prompt free.
    collection = collections.lock(session, get(session, batch_id).collection_id)
    batch = _locked(session, batch_id)
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
    batch = _locked(session, batch_id)
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


def _locked(session: Session, batch_id: int) -> Batch:
    batch = repository.lock_batch(session, batch_id)
    if batch is None:
        raise _no_batch(batch_id)
    return batch


def get(session: Session, batch_id: int) -> Batch:
    """Raises NotFound."""
    batch = repository.batch(session, batch_id)
    if batch is None:
        raise _no_batch(batch_id)
    return batch


def view(session: Session, batch: Batch) -> BatchView:
    """A batch with its edits, its job, and what it waits for."""
    job = jobs.latest_of_batch(session, batch.id)
    waiting = (
        f"It waits for a decision: `melo batch approve {batch.id}` or `melo batch reject {batch.id}`."
        if batch.state == BatchState.SUBMITTED
        else queue.hint(session, job)
    )
    return BatchView(
        **BatchSummary.model_validate(batch).model_dump(),
        collection=collections.by_id(session, batch.collection_id).name,
        edits=[EditView.model_validate(edit) for edit in repository.of_batch(session, batch.id)],
        job=JobView.model_validate(job) if job else None,
        version=repository.version_of_batch(session, batch.id),
        hint=waiting,
    )


def batches(
    session: Session, collection: Collection, *, state: BatchState | None, before: int | None, limit: int
) -> Sequence[Batch]:
    return repository.batches(session, collection.id, state=state, before=before, limit=limit)


def edits_of(
    session: Session, collection: Collection, *, active: bool | None, after: int, limit: int
) -> list[ActiveEditView]:
    """Edits in the order of their ids, with the version that each is active from."""
    found = repository.with_activity(session, collection.id, active=active, after=after, limit=limit)
    return [ActiveEditView(**EditView.model_validate(edit).model_dump(), active_since=since) for edit, since in found]


def _no_batch(batch_id: int) -> NotFound:
    return NotFound(f"There is no batch {batch_id}.", "`melo batch list COLLECTION` shows those that exist.")


def _wrong_state(batch: Batch, wish: str) -> WrongState:
    by = f" by {batch.decided_by}" if batch.decided_by else ""
    return WrongState(
        f"Batch {batch.id} cannot be {wish}: it is {batch.state}{by}.",
        "Only a batch that is submitted or failed can be decided on.",
    )
