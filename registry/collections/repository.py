"""Queries on collections and their calibrations."""

from collections.abc import Sequence

from psycopg.errors import LockNotAvailable
from sqlalchemy import func, select, true
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from registry.tables.collections import Calibration, Collection
from registry.tables.versions import Alias, Version


def by_name(session: Session, name: str) -> Collection | None:
    return session.scalars(select(Collection).where(Collection.name == name)).one_or_none()


def by_id(session: Session, collection_id: int) -> Collection:
    return session.get_one(Collection, collection_id)


def page_by_name(
    session: Session, *, among: frozenset[int] | None, after: str | None, limit: int | None
) -> Sequence[Collection]:
    """Return collections by name; limit None: all of them."""
    query = select(Collection).order_by(Collection.name).limit(limit)
    if among is not None:
        query = query.where(Collection.id.in_(among))
    if after is not None:
        query = query.where(Collection.name > after)
    return session.scalars(query).all()


def lock(session: Session, collection_id: int) -> Collection:
    """Return the collection, and make writers of its versions wait until the transaction ends.

    FOR NO KEY UPDATE: others can still write rows that refer to it, such as audit events.
    """
    query = select(Collection).where(Collection.id == collection_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def lock_at_once(session: Session, collection_id: int) -> Collection | None:
    """Lock the collection as `lock` does without waiting; return None if another transaction holds it."""
    query = select(Collection).where(Collection.id == collection_id).with_for_update(key_share=True, skip_locked=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def lock_soon(session: Session, collection_id: int, seconds: float) -> Collection | None:
    """Lock the collection as `lock` does, waiting at most this long; return None after that."""
    usual = session.scalar(select(func.current_setting("lock_timeout")))
    try:
        with session.begin_nested():  # rolling it back restores the setting
            session.execute(select(func.set_config("lock_timeout", f"{seconds * 1000:.0f}ms", True)))
            found = lock(session, collection_id)
            session.execute(select(func.set_config("lock_timeout", usual, True)))
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            return None
        raise
    return found


def base_models(session: Session) -> Sequence[str]:
    """Return the digests of the base models of all collections."""
    return session.scalars(select(Collection.model_digest).distinct()).all()


def calibration(session: Session, collection_id: int) -> Calibration | None:
    return session.scalars(select(Calibration).where(Calibration.collection_id == collection_id)).one_or_none()


def calibration_sha256(session: Session, collection_id: int) -> str | None:
    return session.scalar(select(Calibration.sha256).where(Calibration.collection_id == collection_id))


def calibration_digests(session: Session, collection_ids: Sequence[int]) -> dict[int, str]:
    query = select(Calibration.collection_id, Calibration.sha256).where(Calibration.collection_id.in_(collection_ids))
    return dict(session.execute(query).all())


def newest_versions(session: Session, collection_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return, by collection id, the number of the newest version and how many edits are active in it."""
    newest = (
        select(Version.number, Version.edit_count)
        .where(Version.collection_id == Collection.id)
        .order_by(Version.number.desc())
        .limit(1)
        .lateral()
    )
    query = (
        select(Collection.id, newest.c.number, newest.c.edit_count)
        .join(newest, true())
        .where(Collection.id.in_(collection_ids))
    )
    return {row.id: (row.number, row.edit_count) for row in session.execute(query)}


def current_aliases(session: Session, collection_ids: Sequence[int]) -> Sequence[Alias]:
    query = select(Alias).where(Alias.collection_id.in_(collection_ids), Alias.replaced_at.is_(None))
    return session.scalars(query.order_by(Alias.name)).all()
