"""What a verification of the record yields, and the comparison that records with an end of their own share."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import String, and_, literal, select
from sqlalchemy.orm import Session, aliased

from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent

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
