"""Ends a job with a result, an error or a cancellation, with the consequences for its batch and for later jobs."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.audit.details import BatchFail, BatchPreflight, BatchReturn
from registry.base.digests import sha256_hex
from registry.base.vocabulary import BatchState, JobKind, JobState
from registry.edits import events
from registry.jobs import outbox, repository
from registry.tables.edits import Batch
from registry.tables.jobs import Job

_LONGEST_ERROR = 10_000


def end(session: Session, job: Job, batch: Batch, state: JobState) -> None:
    """End it, and wake what waited for that: a preflight's training, or the next training of the collection."""
    job.state = state
    job.finished_at = func.now()
    _let_go(job)
    if job.kind == JobKind.TRAIN:
        batch.state = BatchState.APPLIED if state == JobState.SUCCEEDED else BatchState.FAILED
        outbox.wake_next(session, job.collection_id)
    else:
        outbox.wake_training(session, batch.id)


def fail(session: Session, job: Job, batch: Batch, reason: str, actor: Actor) -> None:
    """End it with an error; with a training fails the batch, while a preflight that failed stands in nobody's way."""
    job.error = readable(reason)
    end(session, job, batch, JobState.FAILED)
    ended = BatchFail if job.kind == JobKind.TRAIN else BatchPreflight
    # An error may quote an edit, whose content must stay erasable: only the job holds the text.
    details = ended(job=job.id, attempt=job.attempt, error=sha256_hex(job.error.encode()))
    events.record(session, details, actor, batch, f"see the error of job {job.id}")


def put_back(session: Session, job: Job, batch: Batch, actor: Actor, reason: str) -> None:
    """Return the job to the queue, to be claimed at once."""
    outbox.wake(session, job.id)
    _queue_again(session, job, batch, actor, reason)


def put_off(session: Session, job: Job, batch: Batch, actor: Actor, error: str, pause_seconds: float) -> None:
    """Return the job to the queue, to be claimed after a pause, when the relay's sweep sends a message for it."""
    job.error = readable(error)
    job.not_before = repository.moment_after(session, pause_seconds)
    _queue_again(session, job, batch, actor, f"attempt {job.attempt} failed: see job {job.id}")


def _queue_again(session: Session, job: Job, batch: Batch, actor: Actor, reason: str) -> None:
    """Queue the job again; a training's batch becomes approved again."""
    job.state = JobState.QUEUED
    _let_go(job)
    job.progress = None
    if job.kind == JobKind.PREFLIGHT:
        session.flush()
        return
    batch.state = BatchState.APPROVED
    session.flush()
    events.record(session, BatchReturn(job=job.id, attempt=job.attempt), actor, batch, reason)


def cancel_all(session: Session, batch: Batch) -> Sequence[int]:
    """End the batch's preflight and training, whoever is at them: their next heartbeat tells them. Returns ids."""
    ended = repository.cancel(session, batch.id)
    outbox.wake_next(session, batch.collection_id)
    return ended


def readable(reason: str) -> str:
    """Return an error in the form that is stored, without NUL, which PostgreSQL cannot store, and not too long."""
    return reason.replace("\x00", "")[:_LONGEST_ERROR] or "the worker gave no reason"


def past_deadline(job: Job, batch: Batch) -> str:
    """Return why a batch is no longer applied, and what to do about it."""
    assert batch.deadline is not None
    how_far = "had not been begun" if job.started_at is None else "was not done"
    return (
        f"Batch {batch.id} was to be applied by {in_words(batch.deadline)}, and {how_far} by then. "
        "Approving it again has no effect: submit its edits again, with another deadline or none."
    )


def in_words(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _let_go(job: Job) -> None:
    job.attempt_token = None
    job.lease_until = None
