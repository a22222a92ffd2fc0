"""Queries on jobs, the outbox and the workers that were seen."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from registry.jobs.models import Job, OutboxMessage, WorkerHeartbeat
from registry.vocabulary import JobState


def latest_of_batch(session: Session, batch_id: int) -> Job | None:
    return session.scalars(select(Job).where(Job.batch_id == batch_id).order_by(Job.id.desc()).limit(1)).one_or_none()


def take(session: Session, job_id: int, token: UUID, lease_seconds: float, **facts: Any) -> Job | None:
    """Give a job to one worker: only while it is queued, or its last worker's lease has run out."""
    query = (
        update(Job)
        .where(
            Job.id == job_id,
            or_(
                Job.state == JobState.QUEUED,
                and_(Job.state == JobState.RUNNING, Job.lease_until < func.clock_timestamp()),
            ),
        )
        .values(
            state=JobState.RUNNING,
            attempt=Job.attempt + 1,
            attempt_token=token,
            lease_until=func.clock_timestamp() + timedelta(seconds=lease_seconds),
            started_at=func.now(),
            progress=None,
            **facts,
        )
        .returning(Job)
    )
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def renew(session: Session, job_id: int, token: UUID, lease_seconds: float, progress: dict[str, Any]) -> bool:
    query = (
        update(Job)
        .where(Job.id == job_id, Job.attempt_token == token, Job.state == JobState.RUNNING)
        .values(lease_until=func.clock_timestamp() + timedelta(seconds=lease_seconds), progress=progress)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(query) is not None


def lock_held(session: Session, job_id: int, token: UUID) -> Job | None:
    """The job, if `token` still holds it; locked until the transaction ends."""
    query = (
        select(Job)
        .where(Job.id == job_id, Job.attempt_token == token, Job.state == JobState.RUNNING)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).one_or_none()


def add_message(session: Session, topic: str, job_id: int) -> None:
    session.add(OutboxMessage(topic=topic, job_id=job_id, payload={"job_id": job_id}))


def unsent(session: Session, limit: int) -> Sequence[OutboxMessage]:
    """Messages to send, oldest first, kept from other relays until the transaction ends."""
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
    """Jobs that need a new message: the lease ran out, or nobody claimed them long after the last message.

    Jobs with a message still unsent, or sent less than `resend_seconds` ago, are left alone. They come locked, so
    that two relays do not send twice.
    """
    recent = (
        select(OutboxMessage.id)
        .where(
            OutboxMessage.job_id == Job.id,
            or_(
                OutboxMessage.sent_at.is_(None),
                OutboxMessage.sent_at
                # GREATEST passes over NULL, which a job without a lease has.
                > func.greatest(Job.lease_until, func.now() - timedelta(seconds=resend_seconds)),
            ),
        )
        .exists()
    )
    query = (
        select(Job)
        .where(
            or_(
                Job.state == JobState.QUEUED,
                and_(Job.state == JobState.RUNNING, Job.lease_until < func.now()),
            ),
            ~recent,
        )
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return session.scalars(query).all()


def see_worker(session: Session, worker: str, device: str, models: dict[str, Any]) -> None:
    facts = {"device": device, "models": models, "seen_at": func.clock_timestamp()}
    session.execute(
        insert(WorkerHeartbeat)
        .values(worker=worker, **facts)
        .on_conflict_do_update(index_elements=[WorkerHeartbeat.worker], set_=facts)
    )


def workers(session: Session, alive_seconds: float) -> list[tuple[WorkerHeartbeat, bool]]:
    """Every worker ever seen, newest sign of life first, and whether that is recent."""
    alive = WorkerHeartbeat.seen_at > func.now() - timedelta(seconds=alive_seconds)
    query = select(WorkerHeartbeat, alive).order_by(WorkerHeartbeat.seen_at.desc())
    return [(worker, is_alive) for worker, is_alive in session.execute(query)]


def queued_ahead(session: Session, job: Job) -> int:
    """Jobs that were there before and are not finished."""
    live = Job.state.in_([JobState.QUEUED, JobState.RUNNING])
    return session.scalar(select(func.count()).select_from(Job).where(live, Job.id < job.id)) or 0
