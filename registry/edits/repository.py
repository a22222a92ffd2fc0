"""Queries on edits and batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, select
from sqlalchemy.orm import Session

from registry.edits.models import Batch, Edit
from registry.orm import in_parts
from registry.versions.models import Activation, Version
from registry.vocabulary import BatchState

PENDING = (BatchState.SUBMITTED, BatchState.APPROVED, BatchState.TRAINING)
DECIDED = (BatchState.APPROVED, BatchState.TRAINING)


@dataclass(frozen=True)
class StandingEdit:
    """An edit that acts, or will once its batch is applied."""

    id: int
    prompt: str
    target: str
    prompt_key: str
    batch_id: int
    batch_state: str
    active_since: int | None  # the version; None: its batch is still on its way


def _is_active() -> ColumnElement[bool]:
    return and_(Activation.edit_id == Edit.id, func.upper_inf(Activation.valid))


def standing_by_key(
    session: Session,
    collection_id: int,
    prompt_keys: Iterable[str],
    *,
    pending: Sequence[BatchState] = PENDING,
    except_batch: int | None = None,
) -> list[StandingEdit]:
    """Edits for the given prompts that are active, or in a batch whose state is among `pending`."""
    return _standing(session, collection_id, Edit.prompt_key, prompt_keys, pending, except_batch)


def standing_by_id(session: Session, collection_id: int, edit_ids: Iterable[int]) -> list[StandingEdit]:
    return _standing(session, collection_id, Edit.id, edit_ids, PENDING, None)


def _standing(
    session: Session,
    collection_id: int,
    column: Any,
    values: Iterable[Any],
    pending: Sequence[BatchState],
    except_batch: int | None,
) -> list[StandingEdit]:
    found: list[StandingEdit] = []
    for part in in_parts(sorted(set(values))):
        query = (
            select(
                Edit.id,
                Edit.prompt,
                Edit.target,
                Edit.prompt_key,
                Edit.batch_id,
                Batch.state,
                func.lower(Activation.valid),
            )
            .join(Batch, Batch.id == Edit.batch_id)
            .outerjoin(Activation, _is_active())
            .where(Edit.collection_id == collection_id, column.in_(part))
            .where(Activation.id.is_not(None) | Batch.state.in_(pending))
            .order_by(Edit.id)
        )
        if except_batch is not None:
            query = query.where(Edit.batch_id != except_batch)
        found += [StandingEdit(*row) for row in session.execute(query)]
    return found


def insert_edits(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    session.execute(insert(Edit), rows)


def batch(session: Session, batch_id: int) -> Batch | None:
    return session.get(Batch, batch_id)


def lock_batch(session: Session, batch_id: int) -> Batch | None:
    query = select(Batch).where(Batch.id == batch_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def batches(
    session: Session, collection_id: int, *, state: BatchState | None, before: int | None, limit: int
) -> Sequence[Batch]:
    query = select(Batch).where(Batch.collection_id == collection_id).order_by(Batch.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Batch.state == state)
    if before is not None:
        query = query.where(Batch.id < before)
    return session.scalars(query).all()


def of_batch(session: Session, batch_id: int) -> Sequence[Edit]:
    return session.scalars(select(Edit).where(Edit.batch_id == batch_id).order_by(Edit.position)).all()


def by_ids(session: Session, edit_ids: Iterable[int]) -> list[Edit]:
    """In the order of their ids."""
    found: list[Edit] = []
    for part in in_parts(sorted(set(edit_ids))):
        found += session.scalars(select(Edit).where(Edit.id.in_(part)).order_by(Edit.id))
    return found


def with_activity(
    session: Session, collection_id: int, *, active: bool | None, after: int, limit: int
) -> list[tuple[Edit, int | None]]:
    """Edits after id `after` with the version that each is active from, None where it is not active."""
    query = (
        select(Edit, func.lower(Activation.valid))
        .outerjoin(Activation, _is_active())
        .where(Edit.collection_id == collection_id, Edit.id > after)
        .order_by(Edit.id)
        .limit(limit)
    )
    if active is not None:
        query = query.where(Activation.id.is_not(None) if active else Activation.id.is_(None))
    return [(edit, since) for edit, since in session.execute(query)]


def version_of_batch(session: Session, batch_id: int) -> int | None:
    return session.scalar(select(Version.number).where(Version.batch_id == batch_id))
