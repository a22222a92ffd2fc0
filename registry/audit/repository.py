"""Queries on audit events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from registry.audit.models import AuditEvent

# Writers of events take turns on this lock until they commit. It is always the last lock a transaction takes:
# rows first, then events, so that two transactions cannot wait for each other.
CHAIN_LOCK = 7026368401
GENESIS = "0" * 64  # what the first event follows


@dataclass(frozen=True)
class Tip:
    """The end of the chain, and the clock at which the next event is written."""

    seq: int
    hash: str
    now: datetime


def lock_tip(session: Session) -> Tip:
    """Take the chain's lock until the transaction ends, and read where the chain ends."""
    session.flush()
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CHAIN_LOCK})
    return tip(session)


def tip(session: Session) -> Tip:
    last = select(AuditEvent.seq, AuditEvent.hash).order_by(AuditEvent.seq.desc()).limit(1)
    row = session.execute(last).one_or_none()
    now = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return Tip(row.seq, row.hash, now) if row else Tip(0, GENESIS, now)


def add(session: Session, event: AuditEvent) -> None:
    session.add(event)
    session.flush()


def page(
    session: Session, *, collection_id: int | None, subject: str | None, before: int | None, limit: int
) -> Sequence[AuditEvent]:
    """Events, newest first, older than seq `before`."""
    query = select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(limit)
    if collection_id is not None:
        query = query.where(AuditEvent.collection_id == collection_id)
    if subject is not None:
        query = query.where(AuditEvent.subject == subject)
    if before is not None:
        query = query.where(AuditEvent.seq < before)
    return session.scalars(query).all()


def stream(session: Session) -> Iterator[AuditEvent]:
    """Every event in order, a thousand at a time."""
    query = select(AuditEvent).order_by(AuditEvent.seq).execution_options(yield_per=1000)
    for event in session.scalars(query):
        yield event
        session.expunge(event)
