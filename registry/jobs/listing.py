"""Lists of jobs, newest first or in the order of processing, and what each job waits for."""

from collections.abc import Iterator, Sequence
from datetime import UTC

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from registry.base.errors import NotFound
from registry.base.vocabulary import JobKind, JobState, QueueState
from registry.collections import repository as collections
from registry.edits.repository import left_out_counts
from registry.jobs import ending, order, repository
from registry.jobs.schemas import JobRecord, JobSummary, QueueEntry, QueueView
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job

SHOWN_WAITING = 50  # per collection's queue; the others are only counted
_LONGEST_ERROR = 200

_Listed = Row[Job, Batch, str]


def jobs(
    session: Session,
    *,
    among: frozenset[int] | None,
    state: JobState | None,
    kind: JobKind | None,
    before: int | None,
    limit: int,
) -> list[JobSummary]:
    """Return jobs older than job `before`, newest first.

    among: only those in these collections.
    """
    query = _listed().order_by(Job.id.desc()).limit(limit)
    if among is not None:
        query = query.where(Job.collection_id.in_(among))
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if before is not None:
        query = query.where(Job.id < before)
    return [JobSummary.model_validate(facts) for _, facts in _facts(session, session.execute(query).all())]


def record(session: Session, job_id: int) -> JobRecord:
    """Return what is recorded about a job. Raises NotFound."""
    row = session.execute(_listed().where(Job.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job {job_id}.", "`melo job list` shows those that exist.")
    own = {name: getattr(row.Job, name) for name in JobRecord.model_fields if hasattr(row.Job, name)}
    ((_, facts),) = _facts(session, [row])
    return JobRecord.model_validate({**own, **facts, "waits_for": waits_for(session, row.Job)})


def queue(session: Session, collection: Collection) -> QueueView:
    """Return the running jobs of a collection, and the first waiting ones in the order of processing."""
    mine = _listed().where(Job.collection_id == collection.id)
    running = mine.where(Job.state == JobState.RUNNING).order_by(Job.started_at, Job.id)
    waiting = mine.where(Job.state == JobState.QUEUED).order_by(*order.IN_ORDER)
    count = select(func.count()).select_from(Job)
    count = count.where(Job.collection_id == collection.id, Job.state == JobState.QUEUED)
    # What waits is read first: a job that is claimed between the queries is then in both, and never in neither.
    waiting_count = session.scalar(count) or 0
    first = _entries(session, session.execute(waiting.limit(SHOWN_WAITING)).all())
    return QueueView(
        collection=collection.name,
        state=QueueState(collection.queue),
        running=_entries(session, session.execute(running).all()),
        waiting=first,
        waiting_count=waiting_count,
    )


def _listed() -> Select[Job, Batch, str]:
    return (
        select(Job, Batch, Collection.name)
        .join(Batch, Batch.id == Job.batch_id)
        .join(Collection, Collection.id == Job.collection_id)
    )


def _facts(session: Session, rows: Sequence[_Listed]) -> Iterator[tuple[Job, dict[str, object]]]:
    """Yield each job with what a list says of it. A training does not count what approvers left out of its batch."""
    left_out = left_out_counts(session, {batch.id for _, batch, _ in rows})
    for job, batch, collection in rows:
        own = {name: getattr(job, name) for name in JobSummary.model_fields if hasattr(job, name)}
        yield (
            job,
            {
                **own,
                "collection": collection,
                "edit_count": batch.edit_count - (left_out.get(batch.id, 0) if job.kind == JobKind.TRAIN else 0),
                "priority": batch.priority,
                "deadline": batch.deadline,
            },
        )


def _entries(session: Session, rows: Sequence[_Listed]) -> list[QueueEntry]:
    return [
        QueueEntry.model_validate({**facts, "progress": job.progress, "waits_for": waits_for(session, job)})
        for job, facts in _facts(session, rows)
    ]


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
    if not repository.any_worker(session):
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
