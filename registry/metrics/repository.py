"""Queries on waiting jobs and on workers, cheap ones over partial indexes, because they run all the time."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Double, cast, func, select, text
from sqlalchemy.orm import Session

from registry.jobs.repository import IS_ALIVE
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import WAITING, Job, OutboxMessage, WorkerHeartbeat


@dataclass(frozen=True)
class LiveJobs:
    """Queued or running jobs that differ only in their batches.

    seconds: the age of the oldest one.
    """

    collection: str
    kind: str
    priority: str
    state: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Unsent:
    """Unsent messages of the outbox.

    seconds: the age of the oldest one; 0 if there are none.
    """

    count: int
    seconds: float


def limit_statements(session: Session, seconds: float) -> None:
    """Limit the duration of statements for the rest of the transaction: a scraper does not wait longer."""
    session.execute(text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))


def queue_states(session: Session) -> dict[str, str]:
    """Return the queue's state by collection name, in the order of the names."""
    return dict(session.execute(select(Collection.name, Collection.queue).order_by(Collection.name)).all())


def live_jobs(session: Session) -> list[LiveJobs]:
    live = select(Job.batch_id, Job.kind, Job.state, Job.created_at).where(text(WAITING)).subquery()
    groups = (Collection.name, live.c.kind, Batch.priority, live.c.state)
    query = (
        select(*groups, func.count(), _age(func.min(live.c.created_at)))
        .join(Batch, Batch.id == live.c.batch_id)
        .join(Collection, Collection.id == Batch.collection_id)
        .group_by(*groups)
        .order_by(*groups)
    )
    return [LiveJobs(*row) for row in session.execute(query)]


def unsent(session: Session) -> Unsent:
    query = select(func.count(), _age(func.min(OutboxMessage.created_at))).where(OutboxMessage.sent_at.is_(None))
    count, seconds = session.execute(query).one()
    return Unsent(count, seconds or 0.0)


def workers_alive(session: Session) -> int:
    query = select(func.count()).select_from(WorkerHeartbeat).where(IS_ALIVE)
    return session.scalar(query) or 0


def _age(moment: ColumnElement[datetime]) -> ColumnElement[float]:
    return cast(func.extract("epoch", func.clock_timestamp() - moment), Double)
