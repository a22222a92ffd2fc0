"""Submitting corrections: checked as a whole, then stored as one batch that waits for a decision."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.base_models import RESERVED_TOKENS, count_tokens, find_model
from registry.collections import repository as collections
from registry.collections.models import Collection
from registry.digests import edit_digest, edits_digest
from registry.edits import repository
from registry.edits.models import Batch
from registry.edits.validation import COLLISIONS, Record, collisions_with, collisions_within, read_records, too_long
from registry.errors import InvalidEdits, RecordProblem, UnknownModel
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
