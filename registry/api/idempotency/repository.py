"""Queries on kept answers."""

from datetime import timedelta

from sqlalchemy import delete, func, select, text, tuple_
from sqlalchemy.orm import Session

from registry.tables.idempotency import KeptAnswer

KEPT_FOR = timedelta(hours=24)
_LOCKS = 702636  # the class of these advisory locks: an arbitrary constant of this program
_SWEPT_AT_ONCE = 100


def lock(session: Session, scope: str, key: str) -> None:
    """Until the transaction ends, nobody else handles a request under this key.

    Two keys whose hashes are equal wait for each other without need, which harms neither: it is the first lock that
    a request takes.
    """
    name = f"{scope}\n{key}"
    session.execute(text("SELECT pg_advisory_xact_lock(:class, hashtext(:name))"), {"class": _LOCKS, "name": name})


def find(session: Session, scope: str, key: str) -> KeptAnswer | None:
    query = select(KeptAnswer).where(KeptAnswer.scope == scope, KeptAnswer.key == key)
    return session.scalars(query.where(KeptAnswer.created_at > func.now() - KEPT_FOR)).one_or_none()


def forget(session: Session, scope: str, key: str) -> None:
    """The expired answer under a key that is used anew. Before the effect: the chain's lock is the last to be taken."""
    session.execute(delete(KeptAnswer).where(KeptAnswer.scope == scope, KeptAnswer.key == key))


def add(session: Session, answer: KeptAnswer) -> None:
    session.add(answer)
    session.flush()


def sweep(session: Session) -> None:
    """Delete some expired answers: each writing request takes a few along, so that none stay for long."""
    expired = (
        select(KeptAnswer.scope, KeptAnswer.key)
        .where(KeptAnswer.created_at <= func.now() - KEPT_FOR)
        .limit(_SWEPT_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        delete(KeptAnswer)
        .where(tuple_(KeptAnswer.scope, KeptAnswer.key).in_(expired))
        .execution_options(synchronize_session=False)
    )
