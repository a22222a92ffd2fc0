"""Verifying what people decided: batches, approvals and aliases, each against the events of its decisions."""

from collections.abc import Iterable, Iterator
from datetime import UTC, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from registry.audit.details import AliasSet, BatchApprove, BatchSubmit, key, read
from registry.base.digests import edits_digest, settings_of
from registry.base.vocabulary import Action, BatchState, Priority
from registry.edits.repository import records_of
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.tables.edits import Approval, Batch, Edit
from registry.tables.versions import Alias, Version
from registry.verification.verified import Verified, is_just_before

_FEW = 100
_MANY = 2_000
_WHILE_READ = timedelta(hours=1)  # a submission's corrections are validated in its transaction
# The state of a batch after the last event that changed its state, if it has no version yet.
_STATE_AFTER = {
    Action.BATCH_APPROVE: BatchState.APPROVED,
    Action.BATCH_REJECT: BatchState.REJECTED,
    Action.BATCH_TRAIN: BatchState.TRAINING,
    Action.BATCH_RETURN: BatchState.APPROVED,
    Action.BATCH_FAIL: BatchState.FAILED,
    Action.BATCH_CANCEL: BatchState.CANCELLED,
}
_DECISIONS = (Action.BATCH_APPROVE, Action.BATCH_REJECT, Action.BATCH_CANCEL)


def verify_batches(session: Session) -> Verified:
    """Verify each batch with the events of its submission and last decision; report events whose batch is gone."""
    subject = func.concat("batch/", Batch.id)
    submission = select(AuditEvent).where(AuditEvent.action == Action.BATCH_SUBMIT).subquery()
    submitted = aliased(AuditEvent, submission)
    decision = aliased(AuditEvent)
    query = (
        select(
            Batch,
            submitted,
            decision,
            _last_step(AuditEvent.action, _STATE_AFTER),
            select(Version.id).where(Version.batch_id == Batch.id).exists(),
        )
        .outerjoin(submitted, submitted.subject == subject, full=True)
        .outerjoin(decision, decision.seq == _last_step(AuditEvent.seq, _DECISIONS))
        .order_by(Batch.id, submitted.seq)
    )
    for batch, event, decided, step, was_applied in session.execute(query.execution_options(yield_per=_FEW)):
        if batch is None:
            yield event.subject.replace("/", " "), [f"it is gone, but event {event.seq} tells of its submission"]
            continue
        wrong = []
        if event is None:
            wrong.append("the event of its submission is missing")
        elif (event.after, event.actor) != (batch.edits_digest, batch.submitted_by):
            wrong.append("its edits' digest or its submitter differ from the event of its submission")
        else:
            wrong += _submitted_otherwise(session, batch, event)
        wrong += _decided_otherwise(batch, decided)
        state = BatchState.APPLIED if was_applied else _STATE_AFTER.get(step, BatchState.SUBMITTED)
        if batch.state != state:
            wrong.append(f"it is {batch.state}, but by its events and versions it is {state}")
        if edits_digest(_digests(session, batch.id)) != batch.edits_digest:
            wrong.append("its edits do not match its digest: one was changed, added or removed")
        yield f"batch {batch.id}", wrong


def _last_step(column: Any, actions: Iterable[Action]) -> Any:
    """Select a column of the last event that applied one of these actions to a batch."""
    step = aliased(AuditEvent)
    return (
        select(getattr(step, column.key))
        .where(step.subject == func.concat("batch/", Batch.id), step.action.in_(list(actions)))
        # An approval before the last one needed decides nothing, and has no job.
        .where(or_(step.action != Action.BATCH_APPROVE, step.details.has_key(key(BatchApprove.job))))
        .order_by(step.seq.desc())
        .limit(1)
        .correlate(Batch)
        .scalar_subquery()
    )


def _submitted_otherwise(session: Session, batch: Batch, event: AuditEvent) -> Iterator[str]:
    details = read(BatchSubmit, event)
    told = (event.collection_id, event.reason, details and details.source, details and details.edits)
    if told != (batch.collection_id, batch.message, batch.source, batch.edit_count):
        yield "its collection, message, source or number of edits differ from the event of its submission"
    deadline = batch.deadline.astimezone(UTC).isoformat() if batch.deadline else None
    wanted = (batch.priority, deadline, settings_of(batch.training))
    if details and wanted != (details.priority or Priority.NORMAL, details.deadline, details.training or {}):
        yield "its priority, deadline or settings differ from the event of its submission"
    if details and details.records != records_of(session, batch.id):
        yield "what is said of its edits differs from the event of its submission: one was changed, added or removed"
    if not is_just_before(batch.submitted_at, event.at, _WHILE_READ):
        yield "the time when it was submitted differs from its event"


def _decided_otherwise(batch: Batch, event: AuditEvent | None) -> Iterator[str]:
    decider = event.actor if event else None
    if batch.decided_by != decider:
        yield f"it is {batch.state} by {batch.decided_by}, but the last decision's event names {decider}"
    elif batch.reason != (event.reason if event else None):
        yield "the reason for which it was decided differs from the event of the decision"
    elif (event is None) != (batch.decided_at is None) or (event and not is_just_before(batch.decided_at, event.at)):
        yield "the time when it was decided differs from the event of the decision"


def _digests(session: Session, batch_id: int) -> Iterator[str]:
    query = select(Edit.digest).where(Edit.batch_id == batch_id).order_by(Edit.position)
    return iter(session.scalars(query.execution_options(yield_per=_MANY)))


def verify_approvals(session: Session) -> Verified:
    """Verify that each approval has an event with the same person, role, reason and declined edits."""
    event = aliased(AuditEvent)
    # The person's first approval: approving a failed batch again does not change the stored approval.
    first = (
        select(func.min(event.seq))
        .where(event.subject == func.concat("batch/", Approval.batch_id))
        .where(event.action == Action.BATCH_APPROVE, event.actor == Approval.actor)
        .scalar_subquery()
    )
    query = (
        select(Approval, AuditEvent)
        .select_from(Approval)
        .outerjoin(AuditEvent, AuditEvent.seq == first)
        .order_by(Approval.id)
    )
    for approval, told in session.execute(query.execution_options(yield_per=_FEW)):
        wrong = []
        details = read(BatchApprove, told)
        if told is None:
            wrong.append("its event is missing")
        elif details is None or details.declined != sorted(approval.declined) or told.role != approval.role:
            wrong.append("the edits that it declines, or its role, differ from its event")
        elif details.approval != approval.id:
            wrong.append(f"its event tells of approval {details.approval}, and this is {approval.id}")
        elif told.reason != approval.reason or not is_just_before(approval.created_at, told.at):
            wrong.append("its reason or its time differ from its event")
        yield f"approval of batch {approval.batch_id} by {approval.actor}", wrong


def verify_aliases(session: Session) -> Verified:
    """Verify that the positions of each alias match its events in order, and that each follows the one before."""
    ordered: dict[str, Any] = {"partition_by": (Alias.collection_id, Alias.name), "order_by": Alias.id}
    rows = select(
        Alias,
        func.concat("alias/", Collection.name, "/", Alias.name).label("subject"),
        func.row_number().over(**ordered).label("nth"),
        func.lead(Alias.set_at).over(**ordered).label("followed_at"),
    ).join(Collection, Collection.id == Alias.collection_id).subquery()  # fmt: skip
    events = (
        select(
            AuditEvent.subject,
            AuditEvent.seq,
            AuditEvent.actor,
            AuditEvent.at,
            AuditEvent.reason,
            AuditEvent.details[key(AliasSet.to)].astext.label("to"),
            AuditEvent.details[key(AliasSet.second)].astext.label("told_second"),
            AuditEvent.details[key(AliasSet.share)].astext.label("told_share"),
            AuditEvent.details[key(AliasSet.set_at)].astext.label("told_at"),
            func.row_number().over(partition_by=AuditEvent.subject, order_by=AuditEvent.seq).label("nth"),
        )
        .where(AuditEvent.action == Action.ALIAS_SET)
        .subquery()
    )
    names = ("number", "second", "share", "set_by", "set_at", "replaced_at", "followed_at")
    query = (
        select(
            *(rows.c[name] for name in names),
            rows.c.reason.label("given"),
            func.coalesce(rows.c.subject, events.c.subject).label("subject"),
            *(
                events.c[name]
                for name in ("seq", "actor", "at", "reason", "to", "told_second", "told_share", "told_at")
            ),
        )
        .outerjoin(events, and_(events.c.subject == rows.c.subject, events.c.nth == rows.c.nth), full=True)
        .order_by(rows.c.id, events.c.seq)
    )
    for row in session.execute(query.execution_options(yield_per=_MANY)):
        _, _, name = row.subject.partition("/")  # collection/alias
        yield f"alias {name} at version {row.number or row.to}", _wrong_with(row)


def _wrong_with(row: Any) -> list[str]:
    if row.number is None:
        return [f"it is gone, but event {row.seq} tells of it"]
    if (str(row.number), row.set_by, row.given) != (row.to, row.actor, row.reason):
        return ["where it points, who set it, or why, differs from its event"]
    wrong = []
    second = str(row.second) if row.second is not None else None
    if (second, row.share.hex() if row.share is not None else None) != (row.told_second, row.told_share):
        wrong.append("its second version, or the share of that, differs from its event")
    set_at = row.set_at.astimezone(UTC).isoformat(timespec="microseconds")
    if row.told_at != set_at or not is_just_before(row.set_at, row.at):
        wrong.append("the time when it was set differs from its event")
    if row.replaced_at != row.followed_at:
        wrong.append("the time when it was replaced is not when the next one was set")
    return wrong


def verify_told(session: Session) -> Verified:
    """Whatever an event says was made is there: collections and versions. (Other verifications ask it of their own.)"""
    made = (Action.VERSION_APPLY, Action.VERSION_RETIRE, Action.VERSION_REVERT, Action.VERSION_ROLLBACK)
    version = func.concat("version/", Collection.name, "/", Version.number)
    versions = (
        select(version.label("subject"))
        .select_from(Version)
        .join(Collection, Collection.id == Version.collection_id)
        .subquery()
    )
    collections = select(func.concat("collection/", Collection.name).label("subject")).subquery()
    for found, actions in ((collections, (Action.COLLECTION_CREATE,)), (versions, made)):
        query = (
            select(AuditEvent.seq, AuditEvent.subject, found.c.subject.label("found"))
            .outerjoin(found, found.c.subject == AuditEvent.subject)
            .where(AuditEvent.action.in_(actions))
            .order_by(AuditEvent.seq)
        )
        for event in session.execute(query.execution_options(yield_per=_MANY)):
            wrong = f"it is gone, but event {event.seq} tells of it"
            yield _in_words(event.subject), [] if event.found is not None else [wrong]


def _in_words(subject: str) -> str:
    """Return "version 4 of facts" for version/facts/4."""
    kind, _, rest = subject.partition("/")
    collection, _, number = rest.rpartition("/")
    return f"{kind} {number} of {collection}" if collection else f"{kind} {rest}"
