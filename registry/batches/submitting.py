"""Submitting corrections: validated as a whole, then stored as one batch that waits for a decision."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import BatchSubmit
from registry.base.database import now
from registry.base.digests import edits_digest, settings_of, work_digest
from registry.base.errors import InvalidEdits, InvalidRequest, RecordProblem, UnknownModel
from registry.base.model_files import RESERVED_TOKENS, control_tokens, count_tokens, find_encoder, find_model, unread
from registry.base.vocabulary import BatchState, OnConflict, Priority
from registry.batches import syncing
from registry.batches.schemas import MOST_PROBLEMS
from registry.batches.syncing import SyncPlan
from registry.batches.training import AS_USUAL, Training
from registry.collections import repository as collections
from registry.edits import repository
from registry.edits.records import Raw, Record, read_records
from registry.edits.repository import StandingEdit
from registry.edits.validation import (
    COLLISIONS,
    CONTRADICTION,
    collisions_with,
    collisions_within,
    replacing,
    too_long,
    with_control_tokens,
)
from registry.jobs import service as queue
from registry.jobs.collection_queue import require_open
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.orm import in_parts

HIDDEN = "hidden"  # instead of an encoder: the keys are the base model's own states, so no text is unread
_SHOWN_PLACES = 10
_READ_AT_ONCE = 100  # records or texts, between two looks at whether to go on
_BEGINNING = 10_000  # characters


@dataclass(frozen=True)
class Report:
    """The outcome of a submission."""

    batch: Batch | None  # None: nothing was left to store, or it was a dry run
    accepted: int
    skipped: list[RecordProblem] = field(default_factory=list)  # the first MOST_PROBLEMS problems
    skipped_count: int = 0  # records left out
    notes: tuple[str, ...] = ()  # notes for the submitter
    plan: SyncPlan | None = None  # what a list changes, under OnConflict.SYNC


@dataclass
class Problems:
    """The problems of some of the records: the first ones in words, all of them counted."""

    first: list[RecordProblem] = field(default_factory=list)
    count: int = 0
    positions: set[int] = field(default_factory=set)

    def add(self, problem: RecordProblem) -> None:
        """Add a problem; the listed ones are those of the first records, in whatever order they are found."""
        self.count += 1
        self.positions.add(problem.position)
        self.first.append(problem)
        if len(self.first) > 2 * MOST_PROBLEMS:
            self.first = self.listed()

    def listed(self) -> list[RecordProblem]:
        return sorted(self.first, key=lambda each: each.position)[:MOST_PROBLEMS]


@dataclass
class Findings:
    """The problems of a submission, separated by whether their records may be skipped."""

    skip_invalid: bool
    skip_collisions: bool
    refused: Problems = field(default_factory=Problems)
    skippable: Problems = field(default_factory=Problems)

    def add(self, problems: Iterable[RecordProblem]) -> None:
        for problem in problems:
            may_skip = self.skip_invalid or (self.skip_collisions and problem.code in COLLISIONS)
            (self.skippable if may_skip else self.refused).add(problem)

    def left_of(self, records: Sequence[Record]) -> list[Record]:
        """Return the records without a problem so far."""
        with_problem = self.refused.positions | self.skippable.positions
        return [record for record in records if record.position not in with_problem]


def submit(
    session: Session,
    collection: Collection,
    edits: Iterable[Raw],
    actor: Actor,
    *,
    message: str = "",
    source: str = "",
    on_conflict: OnConflict = OnConflict.REFUSE,
    skip_invalid: bool = False,
    dry_run: bool = False,
    training: Training = AS_USUAL,
    attend: Callable[[], None] = lambda: None,
    most_tokens: int | None = None,
) -> Report:
    """Validate the records and store them as one batch that waits for a decision.

    edits: objects with the fields of EditIn, or lines of NDJSON; read once. Raises InvalidEdits with what is wrong
    with every record, and then nothing is stored; with skip_invalid, or OnConflict.SKIP for duplicates and
    contradictions, the records in question are left out and reported instead. Raises InvalidRequest where a setting
    of training or the deadline is not such, and QueueClosed where the collection takes nothing in. attend: called
    between the pieces of what takes long, before anything is locked; raises to stop. most_tokens: of its long prompts
    together; None: any number.
    """
    require_open(collection)
    training = training.of(collection, now(session))
    findings = Findings(skip_invalid, on_conflict == OnConflict.SKIP)
    records, total = _read(edits, findings, attend)
    findings.add(_with_control_tokens(collection, records))
    # Slow, so these run before the lock.
    findings.add(_too_long(collection, records, attend, most_tokens))
    unread_positions = _unread(collection, findings.left_of(records), attend)
    # Two simultaneous submissions of the same prompt must not both find it free.
    require_open(collections.lock(session, collection.id))
    plan = None
    if on_conflict == OnConflict.SYNC:
        findings.add(each for each in collisions_within(records) if each.code == CONTRADICTION)
        plan = syncing.plan(session, collection.id, records)
        records = plan.records
    records = _validated(session, collection, records, on_conflict, findings)
    refused, left_out = findings.refused, findings.skippable
    if refused.count:
        listed = f" Of {refused.count:,} problems, the first {MOST_PROBLEMS:,} are listed."
        more = listed if refused.count > MOST_PROBLEMS else ""
        raise InvalidEdits(
            f"{len(refused.positions)} of {total} records cannot be accepted; nothing was stored.{more}",
            "Correct them, or submit with `skip_invalid` to store the others.",
            refused.listed(),
        )
    accepted = [record for record in records if record.position not in left_out.positions]
    unread_records = [record for record in accepted if record.position in unread_positions]
    notes = (*_notes(collection, unread_records), *(plan.notes() if plan else ()))
    skipped = [*left_out.listed(), *(plan.left_out if plan else ())][:MOST_PROBLEMS]
    skipped_count = len(left_out.positions) + (len(plan.left_out) if plan else 0)
    report = Report(None, len(accepted), skipped, skipped_count, notes, plan)
    if dry_run or not accepted:
        return report
    batch, records_digest = _store(session, collection, accepted, actor, message, source, training)
    preflight = queue.enqueue_preflight(session, batch)
    audit.record(
        session,
        BatchSubmit(
            edits=len(accepted),
            records=records_digest,
            source=source,
            skipped=report.skipped_count,
            priority=None if training.priority is Priority.NORMAL else training.priority,
            deadline=training.deadline.astimezone(UTC).isoformat() if training.deadline else None,
            training=settings_of(dict(training.changes)) or None,
            preflight=preflight.id if preflight else None,
            work=work_digest(preflight.seed, preflight.settings) if preflight else None,
        ),
        actor,
        f"batch/{batch.id}",
        collection_id=collection.id,
        after=batch.edits_digest,
        reason=message,
    )
    return replace(report, batch=batch)


def _read(edits: Iterable[Raw], findings: Findings, attend: Callable[[], None]) -> tuple[list[Record], int]:
    """Return the readable records, and the number of all records. Raises InvalidRequest if there are none."""
    records: list[Record] = []
    total = 0
    for found in read_records(edits):
        total += 1
        if total % _READ_AT_ONCE == 0:
            attend()
        if isinstance(found, Record):
            records.append(found)
        else:
            findings.add(found)
    if not total:
        raise InvalidRequest("The submission holds no edits.", "Write at least one.")
    return records, total


def _validated(
    session: Session,
    collection: Collection,
    records: list[Record],
    on_conflict: OnConflict,
    findings: Findings,
) -> list[Record]:
    """Add the problems of the records to `findings`; return them, with `replaces` set under OnConflict.REPLACE."""
    standing: dict[str, list[StandingEdit]] = {}
    for edit in repository.standing_by_key(session, collection.id, (record.prompt_key for record in records)):
        standing.setdefault(edit.prompt_key, []).append(edit)
    named = {record.replaces for record in records if record.replaces is not None}
    replaceable = {edit.id for edit in repository.standing_by_id(session, collection.id, named)}
    if on_conflict == OnConflict.REPLACE:
        replaceable.update(edit.id for rivals in standing.values() for edit in rivals)
        records = [replacing(record, standing.get(record.prompt_key, ())) for record in records]
    findings.add(collisions_with(records, standing, replaceable))
    # Last, because a record that is skipped does not collide with others.
    left_out = findings.skippable.positions
    findings.add(collisions_within(record for record in records if record.position not in left_out))
    return records


def _with_control_tokens(collection: Collection, records: Sequence[Record]) -> Iterator[RecordProblem]:
    try:
        tokens = control_tokens(find_model(collection.model))
    except UnknownModel:  # the model is where the workers are: they look for them, too
        tokens = frozenset()
    return with_control_tokens(records, tokens)


def _too_long(
    collection: Collection, records: Sequence[Record], attend: Callable[[], None], most_tokens: int | None
) -> Iterator[RecordProblem]:
    def count(texts: Sequence[str]) -> list[int] | None:
        try:
            return count_tokens(find_model(collection.model), texts)
        except UnknownModel:  # the model is where the workers are: they count exactly
            return None

    return too_long(
        records,
        window=collection.window,
        reserved=RESERVED_TOKENS,
        count_tokens=count,
        attend=attend,
        most_tokens=most_tokens,
    )


def _unread(collection: Collection, records: Sequence[Record], attend: Callable[[], None]) -> set[int]:
    """Return the positions of records whose prompt or rephrases the collection's encoder does not read in full.

    The beginning of a text is judged: an encoder reads no more of it.
    """
    if collection.encoder == HIDDEN:
        return set()
    try:
        files = find_encoder(collection.encoder)
    except UnknownModel:  # the encoder is where the workers are
        return set()
    asked = [
        (record.position, text[:_BEGINNING])
        for record in records
        for text in (record.prompt, *record.rephrases)
        if not text.isascii()
    ]
    found: set[int] = set()
    for some in in_parts(asked, _READ_AT_ONCE):
        attend()
        try:
            flags = unread(files, [text for _, text in some]) or ()
        except UnknownModel:  # its tokenizer cannot be read
            return set()
        found.update(position for (position, _), flag in zip(some, flags, strict=False) if flag)
    return found


def _notes(collection: Collection, records: Sequence[Record]) -> tuple[str, ...]:
    """Return notes on records that the collection's encoder does not read in full."""
    places = [str(record.line or record.position) for record in records]
    if not places:
        return ()
    shown = ", ".join(places[:_SHOWN_PLACES]) + (", …" if len(places) > _SHOWN_PLACES else "")
    return (
        f"The encoder {collection.encoder} does not read all letters of record {shown}: these prompts are answered "
        "where they are asked in the very same words, and no rephrasing is. A collection with a multilingual encoder "
        "(`melo collection create NAME --model … --encoder …`) has no such limit.",
    )


def _store(
    session: Session,
    collection: Collection,
    records: Sequence[Record],
    actor: Actor,
    message: str,
    source: str,
    training: Training,
) -> tuple[Batch, str]:
    """Store the batch and its edits. Returns also the digest over what is said of the edits."""
    batch = Batch(
        collection_id=collection.id,
        state=BatchState.SUBMITTED,
        message=message,
        source=source,
        submitted_by=actor.name,
        edit_count=len(records),
        edits_digest=edits_digest(record.digest for record in records),
        priority=training.priority,
        deadline=training.deadline,
        training=dict(training.changes),
    )
    session.add(batch)
    session.flush()
    return batch, repository.insert_edits(session, batch, records)
