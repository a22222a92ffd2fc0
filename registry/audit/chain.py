"""The chain of events: what each hash covers, and whether each event follows from the one before it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from registry.audit.details import misfit
from registry.base.digests import EVENT_FORMAT, event_hash
from registry.tables.audit import AuditEvent

GENESIS = "0" * 64  # the hash before the first event


def hashed_fields(event: AuditEvent) -> dict[str, Any]:
    """Return everything that an event's hash covers; the time in UTC, to the microsecond."""
    return {
        "format": EVENT_FORMAT,
        "seq": event.seq,
        "at": event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": event.actor,
        "role": event.role,
        "action": event.action,
        "collection_id": event.collection_id,
        "subject": event.subject,
        "before": event.before,
        "after": event.after,
        "reason": event.reason,
        "request_id": event.request_id,
        "details": event.details,
        "previous_hash": event.previous_hash,
    }


def exported_fields(event: AuditEvent) -> dict[str, Any]:
    """Return an event's hashed fields with its hash and signature: what verifying it needs."""
    return {
        **hashed_fields(event), "hash": event.hash, "signed_by": event.signed_by, "signature": event.signature,
    }  # fmt: skip


def follow(
    events: Iterable[Mapping[str, Any]],
    seq: int = 0,
    previous: str | None = GENESIS,
    unsigned: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
) -> Iterator[tuple[int, list[str]]]:
    """Yield each event's seq, and what is wrong with the event.

    Events are given as their `exported_fields`. seq, previous: those of the event before the first one; previous is
    None if its hash is not known. unsigned: returns what is wrong with an event's signature, if anything.
    """
    before: datetime | None = None
    for event in events:
        wrong = []
        if event["seq"] != seq + 1:
            wrong.append(f"event {seq + 1} is missing before it")
        if previous is not None and event["previous_hash"] != previous:
            wrong.append("it does not follow the event before it: one of the two was changed")
        if event.get("format") != EVENT_FORMAT:
            wrong.append(f"its form is {event.get('format')!r}, and this program reads {EVENT_FORMAT}")
        if not is_hash(event):
            wrong.append("its content does not match its hash")
        if (found := misfit(event.get("action"), event.get("details"))) is not None:
            wrong.append(found)
        if (at := moment(event.get("at"))) is None:
            wrong.append("its time cannot be read")
        elif before is not None and at < before:
            wrong.append("its time lies before that of the event before it")
        if (found := unsigned(event)) is not None:
            wrong.append(found)
        yield event["seq"], wrong
        seq, previous, before = event["seq"], event["hash"], at or before


def moment(text: object) -> datetime | None:
    """Return the time in an event's fields, or None if it is none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def is_hash(event: Mapping[str, Any]) -> bool:
    """Return whether an event's hash is that of its content."""
    try:
        return bool(event_hash({**event}) == event["hash"])
    except TypeError:
        return False  # no event was ever written with such a number
