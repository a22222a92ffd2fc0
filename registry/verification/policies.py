"""Verifying the policies that batches were decided under, and that no approval has gone, against their events."""

from sqlalchemy import String, and_, func, select
from sqlalchemy.orm import Session, aliased

from registry.audit.details import BatchApprove, key, read
from registry.base.vocabulary import Action, QueueState
from registry.collections import policy
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.tables.edits import Approval, Batch
from registry.verification.verified import Verified

_FEW = 100
_MANY = 2_000


def verify_policies(session: Session) -> Verified:
    """Verify that each collection's policy is that of its last event. (A missing event is reported elsewhere.)"""
    told = aliased(AuditEvent)
    last = (
        select(func.max(told.seq))
        .where(told.collection_id == Collection.id)
        .where(told.action.in_([Action.COLLECTION_CREATE, Action.POLICY_CHANGE]))
        .scalar_subquery()
    )
    query = select(Collection, AuditEvent).outerjoin(AuditEvent, AuditEvent.seq == last).order_by(Collection.id)
    for collection, event in session.execute(query.execution_options(yield_per=_FEW)):
        wrong = _differences_from(event, collection) if event else []
        yield f"policy of {collection.name}", wrong


def _differences_from(event: AuditEvent, collection: Collection) -> list[str]:
    differs = policy.differences(event, collection)
    return [f"its {', '.join(differs)} differ from event {event.seq}"] if differs else []


def verify_queues(session: Session) -> Verified:
    """Verify that each collection's queue is as its last event says, or open without one."""
    states = {
        Action.QUEUE_OPEN: QueueState.OPEN,
        Action.QUEUE_PAUSE: QueueState.PAUSED,
        Action.QUEUE_DRAIN: QueueState.DRAINING,
    }
    told = aliased(AuditEvent)
    last = (
        select(func.max(told.seq))
        .where(told.collection_id == Collection.id, told.action.in_(list(states)))
        .scalar_subquery()
    )
    query = select(Collection.name, Collection.queue, AuditEvent.action).outerjoin(AuditEvent, AuditEvent.seq == last)
    for name, queue, action in session.execute(query.order_by(Collection.id)):
        state = states[Action(action)] if action else QueueState.OPEN
        yield f"queue of {name}", [] if queue == state else [f"it is {queue}, but by its events it is {state}"]


def verify_given(session: Session) -> Verified:
    """Verify that every approval in an event exists."""
    row = and_(
        Approval.id.cast(String) == AuditEvent.details[key(BatchApprove.approval)].astext,
        func.concat("batch/", Approval.batch_id) == AuditEvent.subject,
        Approval.actor == AuditEvent.actor,
    )
    query = (
        select(AuditEvent.seq, AuditEvent.subject, AuditEvent.actor, Approval.id)
        .outerjoin(Approval, row)
        .where(AuditEvent.action == Action.BATCH_APPROVE)
        .order_by(AuditEvent.seq)
    )
    for event in session.execute(query.execution_options(yield_per=_MANY)):
        wrong = f"the approval by {event.actor}, of which event {event.seq} tells, is gone or was changed"
        yield event.subject.replace("/", " "), [] if event.id is not None else [wrong]


def verify_needed(session: Session) -> Verified:
    """Verify that each approved batch needed as many approvals as the event of its decision says."""
    told = aliased(AuditEvent)
    last = (
        select(func.max(told.seq))
        .where(told.subject == func.concat("batch/", Batch.id))
        .where(told.action == Action.BATCH_APPROVE, told.details.has_key(key(BatchApprove.job)))
        .scalar_subquery()
    )
    query = (
        select(Batch.id, Batch.approvals_needed, AuditEvent)
        .outerjoin(AuditEvent, AuditEvent.seq == last)
        .order_by(Batch.id)
    )
    for batch_id, stored, event in session.execute(query.execution_options(yield_per=_MANY)):
        approval = read(BatchApprove, event)
        needed = approval.approvals_needed if approval else None
        wrong = f"it is said to have needed {stored} approvals, but needed {needed}"
        yield f"batch {batch_id}", [] if needed == stored else [wrong]
