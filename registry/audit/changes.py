"""Tells which collections changed lately: every change of state has its audit event, so the events' end says it all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select, text

from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent

CHANNEL = "melo_events"  # as in migrations/sql/events.sql
_OF_KEYS = (str(Action.KEY_CREATE), str(Action.KEY_REVOKE))


@dataclass(frozen=True)
class Changes:
    """What changed up to an audit event. collections: ids; None: any may have changed."""

    seq: int
    collections: frozenset[int] | None = frozenset()
    keys: bool = False  # whether a key was made or revoked


def since(connection: Connection, seq: int | None) -> Changes:
    """Return what changed after event `seq`; anything may have if that is None, or of a log that was longer."""
    event = AuditEvent.__table__.c
    head = connection.scalar(select(func.coalesce(func.max(event.seq), 0))) or 0
    if seq is None or seq > head:
        return Changes(head, None, True)
    if seq == head:
        return Changes(head)
    later = (event.seq > seq) & (event.seq <= head)
    found = connection.scalars(select(event.collection_id).where(later).distinct()).all()
    keys = connection.scalar(select(func.count()).where(later, event.action.in_(_OF_KEYS)))
    return Changes(head, frozenset(each for each in found if each is not None), bool(keys))


class Listener:
    """A connection that the database notifies of every audit event as its transaction is committed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def next(self, seq: int | None, seconds: float) -> Changes:
        """Return what changed after event `seq`: at once where something did, else when it does, or after a time.

        Raises OperationalError where the connection is lost. Notifications only wake it up: without them, as behind a
        pooler, it looks every `seconds`.
        """
        changed = since(self._connection, seq)
        if seq is not None and changed.seq == seq:
            driver = self._connection.connection.driver_connection
            assert driver is not None
            for _ in driver.notifies(timeout=seconds, stop_after=1):  # none where it does not listen: it only waits
                pass
            changed = since(self._connection, seq)
        return changed


@contextmanager
def listening(engine: Engine) -> Iterator[Listener]:
    """Open a connection of its own that listens. Raises OperationalError.

    Behind a pooler it does not: what it listened with would be given to somebody else after each statement. (A pooler
    tells its clients of other processes than those that serve them.)
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            driver = connection.connection.driver_connection
            assert driver is not None
            if driver.info.backend_pid == connection.scalar(text("SELECT pg_backend_pid()")):
                connection.execute(text(f"LISTEN {CHANNEL}"))
            yield Listener(connection)
        finally:
            connection.invalidate()  # the pool must not get one that listens
