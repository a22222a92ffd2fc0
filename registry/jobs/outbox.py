"""The outbox: messages that wake a worker, written with what makes them necessary and sent by the relay.

Each goes to the broker's queue of its base model, so that a worker keeps its model loaded.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Double, delete, func, or_, select, update
from sqlalchemy.orm import Session

from registry.base.vocabulary import Priority
from registry.jobs import order, repository
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job, OutboxMessage

TRAIN = "worker.train"  # the Celery task's name, of preflights too: the job's row says what is to be done

# Options of the Redis transport, for relay and workers: each queue has one list per step, and the lists of the first
# step are emptied before those of the next. Senders and receivers must use the same steps.
TRANSPORT = {"priority_steps": [0, 3, 6, 9], "queue_order_strategy": "priority"}

_RANKS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}  # in Redis, where 0 is served first
_DOUBLINGS = 5  # of the pause before a message is sent again for an unclaimed job


def queue_of(model_digest: str) -> str:
    """Return the queue of all collections over the base model with this digest."""
    return f"melo.{model_digest[:16]}"


def wake(session: Session, job_id: int, attempts: int = 0) -> None:
    """Add a message for the job, in the transaction that makes it necessary.

    attempts: how often earlier messages for the job were sent.
    """
    queue, priority = _route_of(session, job_id)
    payload = {"job_id": job_id, "queue": queue, "priority": priority}
    session.add(OutboxMessage(topic=TRAIN, job_id=job_id, payload=payload, attempts=attempts))


def wake_again(session: Session, job_id: int) -> None:
    """Replace the messages already sent for a job: one that waits for days must not fill the outbox."""
    old = delete(OutboxMessage).where(OutboxMessage.job_id == job_id, OutboxMessage.sent_at.is_not(None))
    attempts = session.scalars(old.returning(OutboxMessage.attempts).execution_options(synchronize_session=False)).all()
    wake(session, job_id, max(attempts, default=0))


def wake_training(session: Session, batch_id: int) -> None:
    """For the batch's training, which may have waited for its preflight to end."""
    session.flush()
    waiting = repository.waiting_training(session, batch_id)
    if waiting is not None:
        wake(session, waiting)


def wake_next(session: Session, collection_id: int) -> None:
    """Add a message for the collection's next training, if one waits: its own message may be long gone."""
    session.flush()
    first = next(iter(order.line(session, collection_id, limit=1)), None)
    # For a job that pauses until a given time, the sweep sends a message then.
    if first is not None and not first.is_held and first.is_due:
        wake(session, first.job_id)


def wake_collection(session: Session, collection_id: int) -> None:
    """Add messages for everything that may be started in the collection."""
    session.flush()
    for job_id in order.claimable_of(session, collection_id):
        wake(session, job_id)


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
    return queue_of(digest), _RANKS[Priority(priority)]


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
