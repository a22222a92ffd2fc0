"""Queries on audit events."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, select, text
from sqlalchemy.orm import Session

from registry.audit.chain import GENESIS
from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent, RegistryIdentity
from registry.tables.schema import OWN_SCHEMA

# Writers of events hold this lock until they commit. It is always the last lock that a transaction takes:
# rows first, then events, so that two transactions cannot wait for each other.
CHAIN_LOCK = 7026368401


@dataclass(frozen=True)
class Tip:
    """The end of the chain, and the time at which the next event is written."""

    seq: int
    hash: str
    now: datetime  # never before the last event's, even if the clock was put back
    is_signed: bool = False  # the last event
    signer: str | None = None  # the public key that signs the next event, if the last one tells the truth


def lock_tip(session: Session) -> Tip:
    """Take the chain's lock until the transaction ends, and read the end of the chain."""
    session.flush()
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CHAIN_LOCK})
    return tip(session)


def tip(session: Session) -> Tip:
    replaced = AuditEvent.action == Action.SIGNER_REPLACE
    signer = case((replaced, AuditEvent.details["to"].astext), else_=AuditEvent.signed_by).label("signer")
    columns = AuditEvent.seq, AuditEvent.hash, AuditEvent.at, AuditEvent.signature, signer
    row = session.execute(select(*columns).order_by(AuditEvent.seq.desc()).limit(1)).one_or_none()
    now = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    if row is None:
        return Tip(0, GENESIS, now)
    return Tip(row.seq, row.hash, max(now, row.at), row.signature is not None, row.signer)


def add(session: Session, event: AuditEvent) -> None:
    session.add(event)
    session.flush()


def page(
    session: Session, *, collection_id: int | None, subject: str | None, before: int | None, limit: int
) -> Sequence[AuditEvent]:
    """Return events older than seq `before`, newest first."""
    query = select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(limit)
    if collection_id is not None:
        query = query.where(AuditEvent.collection_id == collection_id)
    if subject is not None:
        query = query.where(AuditEvent.subject == subject)
    if before is not None:
        query = query.where(AuditEvent.seq < before)
    return session.scalars(query).all()


def of_subject(session: Session, subject: str, actions: Collection[str]) -> Sequence[AuditEvent]:
    """Return the events of these actions on a subject, in order, as they are in the database now."""
    query = select(AuditEvent).where(AuditEvent.subject == subject, AuditEvent.action.in_(list(actions)))
    return session.scalars(query.order_by(AuditEvent.seq).execution_options(populate_existing=True)).all()


def last_of_subject(session: Session, subject: str, actions: Collection[str]) -> AuditEvent | None:
    """Return the last event of these actions on a subject."""
    query = select(AuditEvent).where(AuditEvent.subject == subject, AuditEvent.action.in_(list(actions)))
    return session.scalars(query.order_by(AuditEvent.seq.desc()).limit(1)).one_or_none()


def last_of(session: Session, collection_id: int, actions: Collection[str]) -> AuditEvent | None:
    """Return the last event of these actions in a collection."""
    query = select(AuditEvent).where(AuditEvent.collection_id == collection_id, AuditEvent.action.in_(list(actions)))
    return session.scalars(query.order_by(AuditEvent.seq.desc()).limit(1)).one_or_none()


def stream(session: Session, after: int = 0) -> Iterator[AuditEvent]:
    """Yield every event after seq `after`, in order, reading a thousand at a time."""
    query = select(AuditEvent).where(AuditEvent.seq > after).order_by(AuditEvent.seq)
    for event in session.scalars(query.execution_options(yield_per=1000)):
        yield event
        session.expunge(event)


def unsigned_count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(AuditEvent).where(AuditEvent.signature.is_(None))) or 0


def before_time(session: Session, seq: int, moment: datetime) -> Sequence[int]:
    """Return the events after `seq` whose time lies before the moment."""
    query = select(AuditEvent.seq).where(AuditEvent.seq > seq, AuditEvent.at < moment).order_by(AuditEvent.seq)
    return session.scalars(query.limit(1_000)).all()


def hash_of(session: Session, seq: int) -> str | None:
    return session.scalar(select(AuditEvent.hash).where(AuditEvent.seq == seq))


def registry_id(session: Session) -> str:
    """Return the registry's identity; in words where somebody removed it or added another, so that none equals it."""
    found = session.scalars(select(RegistryIdentity.registry_id)).all()
    return str(found[0]) if len(found) == 1 else f"{len(found)} identities"


# Tables with the triggers of `migrations/sql/growth.sql`. 8 is the bit of DELETE.
_NEVER_DELETED = f"""
SELECT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE proname = 'melo_refuse_change' AND tgtype & 8 <> 0 AND relnamespace = {OWN_SCHEMA}
ORDER BY relname
"""


def rows_kept(session: Session) -> dict[str, int]:
    """Count the rows of each table from which the database refuses to delete."""
    names = session.scalars(text(_NEVER_DELETED)).all()
    quoted = session.connection().dialect.identifier_preparer.quote
    return {name: session.scalar(text(f"SELECT count(*) FROM {quoted(name)}")) or 0 for name in names}
