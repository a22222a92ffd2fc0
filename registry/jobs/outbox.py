"""Queries on the outbox: messages that wake a worker, written with what makes them necessary and sent by the relay."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Double, delete, func, or_, select, update
from sqlalchemy.orm import Session

from registry.base.vocabulary import Priority
from registry.jobs import order
from registry.jobs.queues import queue_of, rank_of
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job, OutboxMessage

_DOUBLINGS = 5  # of the pause before a message is sent again for an unclaimed job


def add_message(session: Session, topic: str, job_id: int, attempts: int = 0) -> None:
    """Add a message with the queue of the job's base model and the broker's value of its batch's priority.

    attempts: how often earlier messages for the job were sent.
    """
    queue, priority = _route_of(session, job_id)
    payload = {"job_id": job_id, "queue": queue, "priority": priority}
    session.add(OutboxMessage(topic=topic, job_id=job_id, payload=payload, attempts=attempts))


def add_again(session: Session, topic: str, job_id: int) -> None:
    """Replace the messages already sent: a job that waits for days must not fill the outbox."""
    old = delete(OutboxMessage).where(OutboxMessage.job_id == job_id, OutboxMessage.sent_at.is_not(None))
    attempts = session.scalars(old.returning(OutboxMessage.attempts).execution_options(synchronize_session=False)).all()
    add_message(session, topic, job_id, max(attempts, default=0))


def _route_of(session: Session, job_id: int) -> tuple[str, int]:
    """Return the broker's queue for a job's messages, and their priority there."""
    query = (
        select(Collection.model_digest, Batch.priority)
        .select_from(Job)
        .join(Collection, Collection.id == Job.collection_id)
        .join(Batch, Batch.id == Job.batch_id)
        .where(Job.id == job_id)
    )
    digest, priority = session.execute(query).one()
    return queue_of(digest), rank_of(Priority(priority))


def unsent(session: Session, limit: int) -> Sequence[OutboxMessage]:
    """Return messages to send, oldest first, locked against other relays until the transaction ends."""
    query = (
        select(OutboxMessage)
        .where(OutboxMessage.sent_at.is_(None))
        .order_by(OutboxMessage.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return session.scalars(query).all()


def mark_sent(session: Session, message_ids: Sequence[int]) -> None:
    session.execute(
        update(OutboxMessage)
        .where(OutboxMessage.id.in_(message_ids))
        .values(sent_at=func.now(), attempts=OutboxMessage.attempts + 1)
        .execution_options(synchronize_session=False)
    )


def forsaken(session: Session, resend_seconds: float, limit: int) -> Sequence[Job]:
    """Return jobs that need a new message.

    The lease ran out, the pause after a failure is over, or nobody claimed the job long after its last message,
    although its turn has come. Jobs with an unsent message, or one sent less than `resend_seconds` ago, are left alone,
    and that time doubles with each message, so that messages which nobody takes do not fill the broker. The jobs are
    locked, so that two relays do not both send.
    """
    doublings = func.least(func.greatest(OutboxMessage.attempts - 1, 0), _DOUBLINGS)
    pause = timedelta(seconds=resend_seconds) * func.power(2, doublings, type_=Double)
    recent = (
        select(OutboxMessage.id)
        .where(
            OutboxMessage.job_id == Job.id,
            or_(
                OutboxMessage.sent_at.is_(None),
                OutboxMessage.sent_at
                # GREATEST ignores NULL, which a job without a lease has.
                > func.greatest(Job.lease_until, Job.not_before, func.now() - pause),
            ),
        )
        .exists()
    )
    query = (
        select(Job)
        .where(Job.id.in_(order.claimable()), ~recent)
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return session.scalars(query).all()


def prune_messages(session: Session, older_than: timedelta, limit: int) -> int:
    """Delete old messages of finished jobs. Returns how many."""
    old = (
        select(OutboxMessage.id)
        .join(Job, Job.id == OutboxMessage.job_id)
        .where(OutboxMessage.sent_at < func.now() - older_than, Job.finished_at.is_not(None))
        .order_by(OutboxMessage.id)
        .limit(limit)
    )
    query = delete(OutboxMessage).where(OutboxMessage.id.in_(old)).returning(OutboxMessage.id)
    return len(session.scalars(query.execution_options(synchronize_session=False)).all())
