"""Lists of jobs: all of them newest first, or the running and waiting ones of a collection in their order."""

from collections.abc import Sequence

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from registry.base.errors import NotFound
from registry.base.vocabulary import JobKind, JobState, QueueState
from registry.jobs.order import IN_ORDER
from registry.jobs.schemas import JobRecord, JobSummary, QueueEntry, QueueView
from registry.jobs.waiting import waits_for
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job

SHOWN_WAITING = 50  # per collection's queue; the others are only counted

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
    return [JobSummary.model_validate(_facts(row)) for row in session.execute(query)]


def record(session: Session, job_id: int) -> JobRecord:
    """Return what is recorded about a job. Raises NotFound."""
    row = session.execute(_listed().where(Job.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job {job_id}.", "`melo job list` shows those that exist.")
    facts = {name: getattr(row.Job, name) for name in JobRecord.model_fields if hasattr(row.Job, name)}
    return JobRecord.model_validate({**facts, **_facts(row), "waits_for": waits_for(session, row.Job)})


def queue(session: Session, collection: Collection) -> QueueView:
    """Return the running jobs of a collection, and the first waiting ones in the order of processing."""
    mine = _listed().where(Job.collection_id == collection.id)
    running = mine.where(Job.state == JobState.RUNNING).order_by(Job.started_at, Job.id)
    waiting = mine.where(Job.state == JobState.QUEUED).order_by(*IN_ORDER)
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


def _facts(row: _Listed) -> dict[str, object]:
    job, batch, collection = row
    own = {name: getattr(job, name) for name in JobSummary.model_fields if hasattr(job, name)}
    return {
        **own,
        "collection": collection,
        "edit_count": batch.edit_count,
        "priority": batch.priority,
        "deadline": batch.deadline,
    }


def _entries(session: Session, rows: Sequence[_Listed]) -> list[QueueEntry]:
    return [
        QueueEntry.model_validate({**_facts(row), "progress": row[0].progress, "waits_for": waits_for(session, row[0])})
        for row in rows
    ]
