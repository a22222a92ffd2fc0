"""Turns events into deliveries, and schedules attempts: the database side of what the relay does for webhooks.

No event is lost and none overtakes another: the events have numbers without gaps and are committed in that order, each
webhook remembers the last one that it considered, and an event is sent when the one before it was delivered or given
up. A relay that dies while it sends has claimed the delivery until its next attempt, so it is sent again, with the same
webhook-id.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.access.repository import collection_names
from registry.base.database import now
from registry.tables.audit import AuditEvent
from registry.tables.webhooks import Webhook
from registry.webhooks import repository

KEEP_TRYING = timedelta(hours=24)
FIRST_PAUSE = 15.0  # seconds; longer than one attempt may take
LONGEST_PAUSE = 3600.0
JITTER = 0.2  # so that deliveries that failed together are not retried together
_EVENTS_AT_ONCE = 500
_WEBHOOKS_AT_ONCE = 20
_LONGEST_ERROR = 500


@dataclass(frozen=True)
class Message:
    """A delivery claimed by this process, ready to be sent."""

    delivery_id: int
    webhook_id: int
    message_id: str
    url: str
    secret: str
    body: bytes
    claimed_at: datetime  # by the database's clock
    _claimed: float = field(default_factory=monotonic)

    @property
    def now(self) -> datetime:
        """Return the time by the database's clock: receivers refuse what an hour too early or too late was signed."""
        return self.claimed_at + timedelta(seconds=monotonic() - self._claimed)


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attempt.

    error: why it failed; empty if the receiver has the message.
    """

    status: int | None
    error: str = ""


def plan(session: Session) -> int:
    """Write the deliveries of events that the webhooks have not considered yet. Returns how many were written."""
    planned = 0
    for webhook in repository.lock_behind(session, _WEBHOOKS_AT_ONCE):
        events = repository.events_after(session, webhook.seen_seq, _EVENTS_AT_ONCE)
        names = collection_names(session, [event.collection_id for event in events if event.collection_id])
        rows = [
            {"webhook_id": webhook.id, "event_seq": event.seq, "payload": payload(event, names)}
            for event in events
            if wants(webhook, event)
        ]
        repository.add_deliveries(session, rows)
        if events:
            webhook.seen_seq = events[-1].seq
        planned += len(rows)
    session.flush()
    return planned


def wants(webhook: Webhook, event: AuditEvent) -> bool:
    _, subject, _ = event.action.split(":")
    return subject in webhook.events and webhook.collection_id in (None, event.collection_id)


def payload(event: AuditEvent, collection_names: Mapping[int, str]) -> dict[str, Any]:
    """Return what a receiver gets: the event as recorded. No event holds a prompt or an answer."""
    _, subject, verb = event.action.split(":")
    return {
        "type": f"{subject}.{verb}",
        "timestamp": event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "data": {
            "seq": event.seq,
            "action": event.action,
            "collection": collection_names.get(event.collection_id or 0),
            "subject": event.subject,
            "actor": event.actor,
            "role": event.role,
            "reason": event.reason,
            "before": event.before,
            "after": event.after,
            "details": event.details,
            "hash": event.hash,
        },
    }


def claim(session: Session, limit: int, webhook_id: int | None = None) -> list[Message]:
    """Claim deliveries that are due, until their next attempt."""
    claimed, moment = list[Message](), now(session)
    for delivery, webhook in repository.lock_due(session, limit, webhook_id):
        delivery.attempts += 1
        delivery.next_at = func.clock_timestamp() + timedelta(seconds=pause_after(delivery.attempts))
        claimed.append(
            Message(
                delivery_id=delivery.id,
                webhook_id=webhook.id,
                message_id=message_name(delivery.message_id),
                url=webhook.url,
                secret=webhook.secret or "",
                body=json.dumps(delivery.payload, ensure_ascii=False, separators=(",", ":")).encode(),
                claimed_at=moment,
            )
        )
    session.flush()
    return claimed


def pause_after(attempts: int) -> float:
    """Return the seconds from one attempt to the next: 15 s, 1 min, 4 min, 16 min, then an hour."""
    pause = min(FIRST_PAUSE * 4.0 ** min(attempts - 1, 10), LONGEST_PAUSE)
    return pause * random.uniform(1, 1 + JITTER)


def report(session: Session, message: Message, outcome: Outcome) -> bool:
    """Record how an attempt ended. Returns whether the delivery is finished."""
    delivery = repository.lock_delivery(session, message.delivery_id)
    if delivery.delivered_at is not None or delivery.failed_at is not None:  # the webhook was removed meanwhile
        return True
    delivery.last_status = outcome.status
    delivery.last_error = outcome.error[:_LONGEST_ERROR] or None
    ended = True
    if not outcome.error:
        delivery.delivered_at = func.clock_timestamp()
    elif delivery.event_seq is None or delivery.next_at > delivery.created_at + KEEP_TRYING:
        delivery.failed_at = func.clock_timestamp()
    else:
        ended = False
    session.flush()
    return ended


def message_name(message_id: UUID) -> str:
    return f"msg_{message_id.hex}"
