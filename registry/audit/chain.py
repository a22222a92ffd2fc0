"""The chain of events: what each hash covers, and whether each event follows from the one before it."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
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


def follow(
    events: Iterable[Mapping[str, Any]], seq: int = 0, previous: str | None = GENESIS
) -> Iterator[tuple[int, list[str]]]:
    """Yield each event's seq, and what is wrong with the event.

    Events are given as their hashed fields and their `hash`. seq, previous: those of the event before the first one;
    previous is None if its hash is not known.
    """
    for event in events:
        wrong = []
        if event["seq"] != seq + 1:
            wrong.append(f"event {seq + 1} is missing before it")
        if previous is not None and event["previous_hash"] != previous:
            wrong.append("it does not follow the event before it: one of the two was changed")
        if event.get("format") != EVENT_FORMAT:
            wrong.append(f"its form is {event.get('format')!r}, and this program reads {EVENT_FORMAT}")
        if not _is_hash(event):
            wrong.append("its content does not match its hash")
        if (found := misfit(event.get("action"), event.get("details"))) is not None:
            wrong.append(found)
        yield event["seq"], wrong
        seq, previous = event["seq"], event["hash"]


def _is_hash(event: Mapping[str, Any]) -> bool:
    try:
        return bool(event_hash(dict(event)) == event["hash"])
    except TypeError:
        return False  # no event was ever written with such a number
