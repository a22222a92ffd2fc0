"""Describes what a job waits for."""

from datetime import UTC

from sqlalchemy.orm import Session

from registry.base.vocabulary import JobKind, JobState, QueueState
from registry.collections import repository as collections
from registry.jobs import ending, order, repository
from registry.jobs.service import ALIVE_SECONDS
from registry.tables.edits import Batch
from registry.tables.jobs import Job

_LONGEST_ERROR = 200


def waits_for(session: Session, job: Job | None) -> str:
    """What a batch's preflight or training waits for, in words; empty where it waits for nothing."""
    if job is None or job.state not in (JobState.QUEUED, JobState.RUNNING):
        return ""
    return " ".join(part for part in (_waiting(session, job), _until(session, job)) if part)


def _waiting(session: Session, job: Job) -> str:
    what = "preflight" if job.kind == JobKind.PREFLIGHT else "job"
    collection = collections.by_id(session, job.collection_id)
    paused = collection.queue == QueueState.PAUSED
    if paused and job.state == JobState.QUEUED:
        return (
            f"The queue of {collection.name} is paused: `melo collection resume {collection.name} --reason …` goes on."
        )
    if not repository.any_worker(session, ALIVE_SECONDS):
        return f"No worker is running: the {what} waits. Start one with `melo up` or `melo worker`."
    if job.state == JobState.RUNNING:
        return "" if job.kind == JobKind.TRAIN else "A worker is at its preflight."
    if job.not_before is not None and not repository.is_due(session, job.id):
        return f"It is tried again at {job.not_before.astimezone(UTC):%H:%M:%S} UTC, after: {_first_line(job.error)}"
    if job.kind == JobKind.TRAIN:
        if repository.is_preflight_held(session, job.batch_id):
            return "The job waits for the batch's preflight to end, and takes over what that trains."
        first = next(iter(order.line(session, job.collection_id, limit=1)), None)  # None: it has ended meanwhile
        if first is not None and first.job_id != job.id:
            return f"The job waits for batch {first.batch_id}, which is applied before it."
    ahead = order.ahead_of(session, job.id)
    if not ahead:
        return f"The {what} waits for a worker."
    return f"The {what} waits for a worker; {ahead} {'is' if ahead == 1 else 'are'} before it."


def _until(session: Session, job: Job) -> str:
    """Return the deadline of a waiting training, in words: the training ends with it."""
    batch = session.get_one(Batch, job.batch_id)
    if batch.deadline is None or job.kind == JobKind.PREFLIGHT:
        return ""
    return f"It is applied by {ending.in_words(batch.deadline)}, or not at all."


def _first_line(error: str | None) -> str:
    line = next(iter((error or "").splitlines()), "")
    return line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}…"
