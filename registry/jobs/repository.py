"""Queries on jobs, the outbox and the workers that were seen."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ColumnElement, Double, Text, and_, cast, func, literal, or_, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from registry.tables.jobs import Job, WorkerHeartbeat
from registry.tables.orm import in_parts
from registry.versions import repository as versions
from registry.versions.content import BlockContent, PointContent
from registry.tables.versions import Activation, Block, BlockEdit, Point
from registry.base.vocabulary import JobKind, JobState

RENEWAL_WAITS = "1s"  # at most, for a job that is being written: the leases of others must not run out over it


def by_id(session: Session, job_id: int) -> Job | None:
    return session.get(Job, job_id)


def latest_of_batch(session: Session, batch_id: int, kind: JobKind = JobKind.TRAIN) -> Job | None:
    query = select(Job).where(Job.batch_id == batch_id, Job.kind == kind).order_by(Job.id.desc()).limit(1)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def lock_free(session: Session, job_id: int, *, due: bool = True) -> Job | None:
    """The job, locked until the transaction ends, if it is queued or its last worker's lease has run out.

    due: only if it does not wait for a time after a failure.
    """
    query = (
        select(Job)
        .where(Job.id == job_id, _is_free())
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query.where(_is_due()) if due else query).one_or_none()


def is_due(session: Session, job_id: int) -> bool:
    """Whether the job does not wait for a time after a failure, or no longer."""
    return session.scalar(select(Job.id).where(Job.id == job_id, _is_due())) is not None


def _is_due() -> ColumnElement[bool]:
    return or_(Job.not_before.is_(None), Job.not_before <= func.clock_timestamp())


def take(session: Session, job: Job, token: UUID, lease_seconds: float, **facts: Any) -> None:
    """Give a job, which is locked and free, to one worker. The condition stays, whatever the caller has looked at."""
    query = (
        update(Job)
        .where(Job.id == job.id, _is_free())
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


def _is_free() -> ColumnElement[bool]:
    return or_(
        Job.state == JobState.QUEUED, and_(Job.state == JobState.RUNNING, Job.lease_until < func.clock_timestamp())
    )


def cancel_checks(session: Session, batch_id: int, *, held_too: bool) -> Sequence[int]:
    """End the batch's checks on which nobody works; with `held_too`, also those that a worker holds. Returns ids."""
    query = _cancelling(batch_id).where(Job.kind == JobKind.CHECK)
    return session.scalars(query if held_too else query.where(_is_free())).all()


def cancel(session: Session, batch_id: int) -> Sequence[int]:
    """End the batch's jobs that are not over, also those that a worker holds. Returns ids."""
    return sorted(session.scalars(_cancelling(batch_id)))


def _cancelling(batch_id: int) -> ReturningUpdate[int]:
    return (
        update(Job)
        .where(Job.batch_id == batch_id, Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
        .values(state=JobState.CANCELLED, finished_at=func.now(), attempt_token=None, lease_until=None, not_before=None)
        .returning(Job.id)
        .execution_options(synchronize_session="fetch")
    )


def is_checked_now(session: Session, batch_id: int) -> bool:
    """Whether a worker holds the batch's check."""
    query = select(Job.id).where(
        Job.batch_id == batch_id,
        Job.kind == JobKind.CHECK,
        Job.state == JobState.RUNNING,
        Job.lease_until >= func.clock_timestamp(),
    )
    return session.scalar(query) is not None


def waiting_training(session: Session, batch_id: int) -> int | None:
    """The id of the batch's training job, if it waits for a worker."""
    query = select(Job.id).where(Job.batch_id == batch_id, Job.kind == JobKind.TRAIN, Job.state == JobState.QUEUED)
    return session.scalar(query)


def renew(session: Session, job_id: int, token: UUID, lease_seconds: float, progress: dict[str, Any]) -> bool:
    """False: the token no longer holds the job. Raises OperationalError where it is being written just now."""
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
    """The job, if `token` still holds it; locked until the transaction ends."""
    query = (
        select(Job)
        .where(Job.id == job_id, Job.attempt_token == token, Job.state == JobState.RUNNING)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).one_or_none()


def moment_after(session: Session, seconds: float) -> datetime:
    """By the database's clock, as every time that jobs are compared with."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now + timedelta(seconds=seconds)


def see_worker(session: Session, worker: str, device: str, models: dict[str, Any]) -> None:
    facts = {"device": device, "models": models, "seen_at": func.clock_timestamp()}
    session.execute(
        insert(WorkerHeartbeat)
        .values(worker=worker, **facts)
        .on_conflict_do_update(index_elements=[WorkerHeartbeat.worker], set_=facts)
    )


def any_worker(session: Session, alive_seconds: float) -> bool:
    return session.scalar(select(select(WorkerHeartbeat.worker).where(is_alive(alive_seconds)).exists())) or False


def workers(
    session: Session, alive_seconds: float, *, before: tuple[datetime, str] | None, limit: int
) -> list[tuple[WorkerHeartbeat, bool]]:
    """Every worker ever seen, newest sign of life first, and whether that is recent."""
    place = tuple_(WorkerHeartbeat.seen_at, WorkerHeartbeat.worker)
    query = select(WorkerHeartbeat, is_alive(alive_seconds)).limit(limit)
    if before is not None:
        query = query.where(place < before)
    query = query.order_by(WorkerHeartbeat.seen_at.desc(), WorkerHeartbeat.worker.desc())
    return [(worker, is_alive) for worker, is_alive in session.execute(query)]


def is_alive(alive_seconds: float) -> ColumnElement[bool]:
    return WorkerHeartbeat.seen_at > func.now() - timedelta(seconds=alive_seconds)


def blocks_of_job(
    session: Session, job_id: int
) -> list[tuple[BlockContent, float, int, tuple[int, ...], tuple[PointContent, ...]]]:
    """The blocks that a job stored, with their bytes: loss, iterations, their edits, and the points that lead there."""
    rows = session.execute(select(Block.id, Block.loss, Block.iterations).where(Block.job_id == job_id)).all()
    ids = [row.id for row in rows]
    blocks = versions.blocks_by_ids(session, ids, with_bytes=True)
    edits: dict[int, list[int]] = {block_id: [] for block_id in ids}
    points: dict[int, list[PointContent]] = {block_id: [] for block_id in ids}
    for part in in_parts(ids):
        query = select(BlockEdit.block_id, BlockEdit.edit_id).where(BlockEdit.block_id.in_(part))
        for block_id, edit_id in session.execute(query.order_by(BlockEdit.edit_id)):
            edits[block_id].append(edit_id)
        point_ids = session.scalars(select(Point.id).where(Point.block_id.in_(part)))
        for _, point in sorted(versions.points_by_ids(session, point_ids).items()):
            points[point.block_id].append(point)
    return [(blocks[row.id], row.loss, row.iterations, tuple(edits[row.id]), tuple(points[row.id])) for row in rows]


def block_of_edit(session: Session, edit_id: int) -> tuple[int, float, int, dict[str, Any], int] | None:
    """The newest block that was stored for an edit: its id, loss and iterations, and its job's settings and seed."""
    query = (
        select(Block.id, Block.loss, Block.iterations, Job.settings, Job.seed)
        .join(BlockEdit, BlockEdit.block_id == Block.id)
        .join(Job, Job.id == Block.job_id)
        .where(BlockEdit.edit_id == edit_id, Block.erased_at.is_(None))
        .order_by(Block.id.desc())
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row.id, row.loss, row.iterations, dict(row.settings), row.seed)


def nearest_active(
    session: Session, collection_id: int, keys: Sequence[Sequence[float]], limit: int
) -> list[list[tuple[int, float]]]:
    """For each key, the edits that act in the newest version and lie nearest, with their distances, nearest first.

    Exact: the keys are compared with every active point, which are read once for all of `keys`.
    """
    newest = versions.latest(session, collection_id)
    active = (
        select(Point.edit_id, Point.key)
        .join(Activation, Activation.edit_id == Point.edit_id)
        .where(versions.in_state(Activation, collection_id, newest.state if newest else 0))
        .cte("active")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    texts = literal([f"[{','.join(map(repr, key))}]" for key in keys], ARRAY(Text))
    given = func.unnest(texts).table_valued("key", with_ordinality="n", name="given").render_derived()
    # Materialised, so that a key is read from its text once, and not for every comparison.
    asked = (
        select(given.c.n, cast(given.c.key, VECTOR).label("key"))
        .cte("asked")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    distance: ColumnElement[float] = func.min(active.c.key.op("<->", return_type=Double())(asked.c.key))
    near = (
        select(active.c.edit_id, distance.label("distance"))
        .group_by(active.c.edit_id)
        .order_by(distance, active.c.edit_id)
        .limit(limit)
        .lateral("near")
    )
    query = select(asked.c.n, near.c.edit_id, near.c.distance).join_from(asked, near, true())
    found: list[list[tuple[int, float]]] = [[] for _ in keys]
    for n, edit_id, away in session.execute(query.order_by(asked.c.n, near.c.distance, near.c.edit_id)):
        found[n - 1].append((edit_id, away))
    return found


def active_points(session: Session, collection_id: int) -> int:
    """How many points lead to the edits that act in the newest version."""
    newest = versions.latest(session, collection_id)
    active = versions.in_state(Activation, collection_id, newest.state if newest else 0)
    query = select(func.count()).select_from(Point).join(Activation, Activation.edit_id == Point.edit_id)
    return session.scalar(query.where(active)) or 0
