"""Queries: which job comes next. A collection's trainings are done one by one, in their order; preflights whenever."""

from collections.abc import Collection as Container
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, any_, case, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased
from sqlalchemy.types import Text

from registry.base.vocabulary import JobKind, Priority, QueueState
from registry.jobs.repository import IS_DUE, IS_FREE, IS_HELD, IS_LIVE
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job

_MOST_LOOKED_AT = 100
_RANK = case({Priority.HIGH: 0, Priority.NORMAL: 1}, value=Batch.priority, else_=2)
# The order of trainings, for queries that join batches to jobs.
IN_ORDER = (_RANK, Batch.deadline.asc().nulls_last(), Job.id)


@dataclass(frozen=True)
class Place:
    """The place of a queued or running training in its collection's order."""

    job_id: int
    batch_id: int
    is_held: bool  # a worker holds it under a valid lease
    is_due: bool  # it is not pausing after a failure
    is_overdue: bool  # its batch's deadline has passed
    attempt: int
    edit_count: int
    settings: dict[str, Any]
    priority: str


def line(session: Session, collection_id: int, limit: int = _MOST_LOOKED_AT) -> list[Place]:
    """Return the collection's live trainings: held ones first, then the others in the order of processing.

    Have the collection locked if the result must not change.
    """
    query = (
        select(
            Job.id,
            Job.batch_id,
            IS_HELD,
            IS_DUE,
            func.coalesce(Batch.deadline < func.clock_timestamp(), False),
            Job.attempt,
            Batch.edit_count,
            Job.settings,
            Batch.priority,
        )
        .join(Batch, Batch.id == Job.batch_id)
        .where(Job.collection_id == collection_id, Job.kind == JobKind.TRAIN, IS_LIVE)
        .order_by(IS_HELD.desc(), *IN_ORDER)
        .limit(limit)
    )
    return [Place(*row) for row in session.execute(query)]


def claimable(
    models: Container[str] | None = None,
    loaded: Container[str] = (),
    patience_seconds: float = 0,
    *,
    collection_id: int | None = None,
) -> Select[int]:
    """Select the ids of the jobs that could be claimed now, best first; of one collection, or of all.

    models: digests of the base models to look for; None: any. A job over a model that is not in `loaded` counts as
    `patience_seconds` younger than it is.
    """
    live = (
        select(
            Job.id,
            Job.batch_id,
            Job.collection_id,
            Job.kind,
            Job.created_at,
            _RANK.label("rank"),
            Batch.deadline,
            IS_HELD.label("held"),
            IS_DUE.label("due"),
            func.row_number()
            .over(partition_by=(Job.collection_id, Job.kind), order_by=(IS_HELD.desc(), *IN_ORDER))
            .label("place"),
        )
        .join(Batch, Batch.id == Job.batch_id)
        .where(IS_LIVE)
        .cte("live")
    )
    preflight = aliased(live, name="its_preflight")
    is_preflight_held = (
        select(preflight.c.id).where(
            preflight.c.batch_id == live.c.batch_id, preflight.c.kind == JobKind.PREFLIGHT, preflight.c.held
        )
    ).exists()
    foreign = case((Collection.model_digest == _among(loaded), timedelta(0)), else_=timedelta(seconds=patience_seconds))
    query = (
        select(live.c.id)
        .join(Collection, Collection.id == live.c.collection_id)
        .where(~live.c.held, live.c.due, Collection.queue != QueueState.PAUSED)
        .where((live.c.kind == JobKind.PREFLIGHT) | ((live.c.place == 1) & ~is_preflight_held))
        .order_by(live.c.rank, live.c.deadline.asc().nulls_last(), live.c.created_at + foreign, live.c.id)
    )
    if collection_id is not None:
        query = query.where(live.c.collection_id == collection_id)
    return query if models is None else query.where(Collection.model_digest == _among(models))


def claimable_of(session: Session, collection_id: int) -> Sequence[int]:
    """Return the ids of the collection's claimable jobs, best first."""
    return session.scalars(claimable(collection_id=collection_id)).all()


def ahead_of(session: Session, job_id: int) -> int:
    """Count the claimable jobs that come before this one, regardless of the models that workers have loaded."""
    ids = list(session.scalars(claimable()))
    return ids.index(job_id) if job_id in ids else len(ids)


def overdue(session: Session, limit: int) -> list[tuple[int, int, int]]:
    """Return trainings that nobody holds and whose deadline has passed: collection, batch and job, in lock order."""
    query = (
        select(Job.collection_id, Job.batch_id, Job.id)
        .join(Batch, Batch.id == Job.batch_id)
        .where(IS_FREE, Job.kind == JobKind.TRAIN, Batch.deadline < func.clock_timestamp())
        .order_by(Job.collection_id, Job.batch_id, Job.id)
        .limit(limit)
    )
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def best(
    session: Session, models: Container[str] | None, loaded: Container[str], patience_seconds: float
) -> Sequence[int]:
    """Return the first claimable jobs, for a worker to try one after the other."""
    return session.scalars(claimable(models, loaded, patience_seconds).limit(_MOST_LOOKED_AT)).all()


def _among(digests: Container[str]) -> Any:
    return any_(literal(sorted(digests), ARRAY(Text)))
