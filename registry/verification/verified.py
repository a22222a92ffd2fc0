"""What a verification of the record yields, and the comparison that records with an end of their own share."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import String, and_, literal, select
from sqlalchemy.orm import Session, aliased

from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent

# Most events do not record when their row was written: the row has the start time of the event's transaction.
_JUST_BEFORE = timedelta(minutes=5)

Verified = Iterator[tuple[str, list[str]]]  # a record, and what is wrong with it


def made_and_ended(session: Session, table: Any, kind: str, made: Action, ended: Action) -> Iterator[Any]:
    """Yield rows of a table whose subject is `kind/id`, each with the events of its creation and of its end, if any.

    An event without a row comes with None for the row, and a row without an event with None for the event.
    """
    making, ending = aliased(AuditEvent), aliased(AuditEvent)
    subject = literal(f"{kind}/") + table.id.cast(String)
    query = (
        select(making, table, ending)
        .join(table, and_(making.subject == subject, making.action == made), full=True)
        .outerjoin(ending, and_(ending.subject == subject, ending.action == ended))
        .where(table.id.is_not(None) | (making.action == made))
        .order_by(table.id)
    )
    yield from session.execute(query)


def is_just_before(written: datetime | None, told: datetime, most: timedelta = _JUST_BEFORE) -> bool:
    """Return whether a row's time is that of its event: a row has the time at which the event's transaction began."""
    return written is not None and told - most <= written <= told


def is_around(written: datetime | None, told: datetime) -> bool:
    """Return whether a row's time is that of its event, where another clock than the database's gave it."""
    return written is not None and abs(told - written) <= _JUST_BEFORE
