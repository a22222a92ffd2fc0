"""Queries on stored answers."""

from datetime import timedelta

from sqlalchemy import delete, func, select, text, tuple_
from sqlalchemy.orm import Session

from registry.tables.idempotency import KeptAnswer

KEPT_FOR = timedelta(hours=24)
_LOCKS = 702636  # the class of these advisory locks: an arbitrary constant of this program
_SWEPT_AT_ONCE = 100


def lock(session: Session, scope: str, key: str) -> None:
    """Lock the key, so that nobody else handles a request under it until the transaction ends.

    Two keys with equal hashes wait for each other needlessly but harmlessly: this is the first lock that a request
    takes.
    """
    name = f"{scope}\n{key}"
    session.execute(text("SELECT pg_advisory_xact_lock(:class, hashtext(:name))"), {"class": _LOCKS, "name": name})


def find(session: Session, scope: str, key: str) -> KeptAnswer | None:
    query = select(KeptAnswer).where(KeptAnswer.scope == scope, KeptAnswer.key == key)
    return session.scalars(query.where(KeptAnswer.created_at > func.now() - KEPT_FOR)).one_or_none()


def forget(session: Session, scope: str, key: str) -> None:
    """Delete the expired answer under a key that is being reused.

    Call it before the effect: the chain's lock must be the last one taken.
    """
    session.execute(delete(KeptAnswer).where(KeptAnswer.scope == scope, KeptAnswer.key == key))


def add(session: Session, answer: KeptAnswer) -> None:
    session.add(answer)
    session.flush()


def sweep(session: Session) -> None:
    """Delete some expired answers: each writing request removes a few, so that none stay for long."""
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
