"""Queries on collections and their calibrations."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.collections.models import Calibration, Collection
from registry.versions.models import Activation, Alias, Version


def by_name(session: Session, name: str) -> Collection | None:
    return session.scalars(select(Collection).where(Collection.name == name)).one_or_none()


def by_id(session: Session, collection_id: int) -> Collection:
    return session.get_one(Collection, collection_id)


def all_by_name(session: Session) -> Sequence[Collection]:
    return session.scalars(select(Collection).order_by(Collection.name)).all()


def lock(session: Session, collection_id: int) -> Collection:
    """The collection, with writers of its versions kept waiting until the transaction ends.

    FOR NO KEY UPDATE: others may go on writing rows that refer to it, such as audit events.
    """
    query = select(Collection).where(Collection.id == collection_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def calibration(session: Session, collection_id: int) -> Calibration | None:
    return session.scalars(select(Calibration).where(Calibration.collection_id == collection_id)).one_or_none()


def calibration_sha256(session: Session, collection_id: int) -> str | None:
    return session.scalar(select(Calibration.sha256).where(Calibration.collection_id == collection_id))


def calibration_digests(session: Session, collection_ids: Sequence[int]) -> dict[int, str]:
    query = select(Calibration.collection_id, Calibration.sha256).where(Calibration.collection_id.in_(collection_ids))
    return dict(session.execute(query).all())


def latest_numbers(session: Session, collection_ids: Sequence[int]) -> dict[int, int]:
    query = (
        select(Version.collection_id, func.max(Version.number))
        .where(Version.collection_id.in_(collection_ids))
        .group_by(Version.collection_id)
    )
    return dict(session.execute(query).all())


def active_counts(session: Session, collection_ids: Sequence[int]) -> dict[int, int]:
    query = (
        select(Activation.collection_id, func.count())
        .where(Activation.collection_id.in_(collection_ids), func.upper_inf(Activation.valid))
        .group_by(Activation.collection_id)
    )
    return dict(session.execute(query).all())


def current_aliases(session: Session, collection_ids: Sequence[int]) -> Sequence[Alias]:
    query = select(Alias).where(Alias.collection_id.in_(collection_ids), Alias.replaced_at.is_(None))
    return session.scalars(query.order_by(Alias.name)).all()
