"""Queries on jobs, the outbox and the workers that were seen."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.types import Text

from registry.base.database import now
from registry.base.probes import WORKER_SILENCE_SECONDS
from registry.base.vocabulary import JobKind, JobState
from registry.tables.jobs import Job, WorkerHeartbeat

RENEWAL_WAITS = "1s"  # the longest wait for a locked job: other jobs' leases must not run out meanwhile


def _in(*states: JobState) -> ColumnElement[bool]:
    """Return the condition that a job is in one of these states.

    The states are literals in the statement, so that the planner finds the partial index of live jobs.
    """
    return Job.state.in_([literal(state, Text, literal_execute=True) for state in states])


IS_LIVE = _in(JobState.QUEUED, JobState.RUNNING)
IS_HELD = and_(_in(JobState.RUNNING), Job.lease_until >= func.clock_timestamp())
IS_DUE = func.coalesce(Job.not_before <= func.clock_timestamp(), True)
IS_FREE = and_(IS_LIVE, ~IS_HELD)

IS_ALIVE = WorkerHeartbeat.seen_at > func.now() - timedelta(seconds=WORKER_SILENCE_SECONDS)


def by_id(session: Session, job_id: int) -> Job | None:
    return session.get(Job, job_id)


def latest_of_batch(session: Session, batch_id: int, kind: JobKind = JobKind.TRAIN) -> Job | None:
    query = select(Job).where(Job.batch_id == batch_id, Job.kind == kind).order_by(Job.id.desc()).limit(1)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def lock_free(session: Session, job_id: int, *, due: bool = True) -> Job | None:
    """Lock the job until the transaction ends, and return it if it is queued or its worker's lease has run out.

    due: only if it is not pausing after a failure.
    """
    query = (
        select(Job)
        .where(Job.id == job_id, IS_FREE)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query.where(IS_DUE) if due else query).one_or_none()


def is_due(session: Session, job_id: int) -> bool:
    """Return whether the job is not, or no longer, pausing after a failure."""
    return session.scalar(select(Job.id).where(Job.id == job_id, IS_DUE)) is not None


def take(session: Session, job: Job, token: UUID, lease_seconds: float, **facts: Any) -> None:
    """Give a job, which is locked and free, to one worker. The condition is repeated, whatever the caller knows."""
    query = (
        update(Job)
        .where(Job.id == job.id, IS_FREE)
        .values(
            state=JobState.RUNNING,
            attempt=Job.attempt + 1,
            attempt_token=token,
            lease_until=func.clock_timestamp() + timedelta(seconds=lease_seconds),
            not_before=None,
            started_at=func.now(),
            progress=None,
            **facts,
        )
        .returning(Job)
    )
    session.scalars(query.execution_options(populate_existing=True)).one()


def cancel_preflights(session: Session, batch_id: int, *, held_too: bool) -> Sequence[int]:
    """End the batch's preflights that nobody works on; with `held_too`, also those that a worker holds. Returns ids."""
    query = _cancelling(batch_id).where(Job.kind == JobKind.PREFLIGHT)
    return session.scalars(query if held_too else query.where(IS_FREE)).all()


def cancel(session: Session, batch_id: int) -> Sequence[int]:
    """End the batch's unfinished jobs, including those that a worker holds. Returns their ids."""
    return sorted(session.scalars(_cancelling(batch_id)))


def _cancelling(batch_id: int) -> ReturningUpdate[int]:
    return (
        update(Job)
        .where(Job.batch_id == batch_id, IS_LIVE)
        .values(state=JobState.CANCELLED, finished_at=func.now(), attempt_token=None, lease_until=None, not_before=None)
        .returning(Job.id)
        .execution_options(synchronize_session="fetch")
    )


def is_preflight_held(session: Session, batch_id: int) -> bool:
    """Whether a worker holds the batch's preflight."""
    query = select(Job.id).where(Job.batch_id == batch_id, Job.kind == JobKind.PREFLIGHT, IS_HELD)
    return session.scalar(query) is not None


def waiting_training(session: Session, batch_id: int) -> int | None:
    """Return the id of the batch's training job if it waits for a worker."""
    query = select(Job.id).where(Job.batch_id == batch_id, Job.kind == JobKind.TRAIN, Job.state == JobState.QUEUED)
    return session.scalar(query)


def renew(session: Session, job_id: int, token: UUID, lease_seconds: float, progress: dict[str, Any]) -> bool:
    """Renew the lease; return False if the token no longer holds the job.

    Raises OperationalError if the job is being written at the moment.
    """
    session.execute(select(func.set_config("lock_timeout", RENEWAL_WAITS, True)))
    query = (
        update(Job)
        .where(Job.id == job_id, Job.attempt_token == token, Job.state == JobState.RUNNING)
        .values(lease_until=func.clock_timestamp() + timedelta(seconds=lease_seconds), progress=progress)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(query) is not None


def lock_held(session: Session, job_id: int, token: UUID) -> Job | None:
    """Lock the job until the transaction ends, and return it if `token` still holds it."""
    query = (
        select(Job)
        .where(Job.id == job_id, Job.attempt_token == token, Job.state == JobState.RUNNING)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).one_or_none()


def moment_after(session: Session, seconds: float) -> datetime:
    """Return a later time by the database's clock, like all times that jobs are compared with."""
    return now(session) + timedelta(seconds=seconds)


def see_worker(session: Session, worker: str, device: str, models: dict[str, Any]) -> None:
    facts = {"device": device, "models": models, "seen_at": func.clock_timestamp()}
    session.execute(
        insert(WorkerHeartbeat)
        .values(worker=worker, **facts)
        .on_conflict_do_update(index_elements=[WorkerHeartbeat.worker], set_=facts)
    )


def any_worker(session: Session, *, named: str | None = None) -> bool:
    """Return whether a worker is alive; with `named`, whether that one is."""
    query = select(WorkerHeartbeat.worker).where(IS_ALIVE)
    if named is not None:
        query = query.where(WorkerHeartbeat.worker == named)
    return session.scalar(select(query.exists())) or False


def workers(session: Session, *, before: tuple[datetime, str] | None, limit: int) -> list[tuple[WorkerHeartbeat, bool]]:
    """Return every worker ever seen, most recent heartbeat first, and whether it is alive."""
    place = tuple_(WorkerHeartbeat.seen_at, WorkerHeartbeat.worker)
    query = select(WorkerHeartbeat, IS_ALIVE).limit(limit)
    if before is not None:
        query = query.where(place < before)
    query = query.order_by(WorkerHeartbeat.seen_at.desc(), WorkerHeartbeat.worker.desc())
    return [(worker, is_alive) for worker, is_alive in session.execute(query)]
