"""Adds and removes webhooks, and shows what was sent to them."""

import secrets
from base64 import b64encode
from collections.abc import Sequence

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.access.repository import collection_names
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import WebhookCreate, WebhookDelete
from registry.base import database
from registry.base.digests import canonical_json, sha256_hex
from registry.base.errors import NotFound, WrongState
from registry.base.vocabulary import WebhookEvent
from registry.collections import service as collections
from registry.tables.webhooks import Webhook, WebhookDelivery
from registry.webhooks import repository
from registry.webhooks.addresses import host_of, require_receiver
from registry.webhooks.schemas import CreatedWebhook, DeliveryView, NewWebhook, WebhookView
from registry.webhooks.sending import message_name

TEST = "webhook.test"


def create(session: Session, new: NewWebhook, actor: Actor, *, allow_private: bool) -> CreatedWebhook:
    """Create a webhook that is sent its kinds of events from now on. Raises InvalidRequest or NotFound."""
    url = require_receiver(new.url, allow_private=allow_private)
    collection = collections.get(session, new.collection) if new.collection else None
    secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
    webhook = Webhook(
        collection_id=collection.id if collection else None,
        url=str(url),  # with the scheme in lower case
        secret=secret,
        events=sorted(set(new.events)),
        description=new.description,
        created_by=actor.name,
        seen_seq=0,
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    event = audit.record(
        session,
        WebhookCreate(host=host_of(url), events=webhook.events, secret=sha256_hex(secret.encode())),
        actor,
        f"webhook/{webhook.id}",
        collection_id=webhook.collection_id,
        after=content_digest(webhook),
    )
    webhook.seen_seq = event.seq
    session.flush()
    return CreatedWebhook(**view(session, webhook).model_dump(), secret=secret)


def remove(session: Session, webhook_id: int, actor: Actor, reason: str) -> Webhook:
    """Remove a webhook: nothing more is sent, and the secret is deleted. Raises NotFound or WrongState."""
    webhook = repository.lock(session, webhook_id)
    if webhook is None:
        raise _no_webhook(webhook_id)
    _require_kept(webhook)
    repository.give_up_pending(session, webhook.id, "The webhook was removed.")
    webhook.removed_at = func.now()
    webhook.secret = None
    session.flush()
    session.refresh(webhook)
    audit.record(
        session,
        WebhookDelete(),
        actor,
        f"webhook/{webhook.id}",
        collection_id=webhook.collection_id,
        before=content_digest(webhook),
        reason=reason,
    )
    return webhook


def test(session: Session, webhook_id: int) -> DeliveryView:
    """Send a test message once, immediately. Raises NotFound or WrongState."""
    webhook = get(session, webhook_id)
    _require_kept(webhook)
    now = database.now(session).isoformat(timespec="microseconds")
    delivery = WebhookDelivery(
        webhook_id=webhook.id, payload={"type": TEST, "timestamp": now, "data": {"webhook": webhook.id}}
    )
    session.add(delivery)
    session.flush()
    session.refresh(delivery)
    return delivery_view(delivery)


def get(session: Session, webhook_id: int) -> Webhook:
    """Return the webhook. Raises NotFound."""
    webhook = repository.by_id(session, webhook_id)
    if webhook is None:
        raise _no_webhook(webhook_id)
    return webhook


def content_digest(webhook: Webhook) -> str:
    """Return a digest over what is fixed when a webhook is added, without the secret."""
    fixed = {
        "url": webhook.url,
        "events": webhook.events,
        "description": webhook.description,
        "collection_id": webhook.collection_id,
    }
    return sha256_hex(canonical_json(fixed))


def secret_digest(webhook: Webhook) -> str | None:
    return None if webhook.secret is None else sha256_hex(webhook.secret.encode())


def view(session: Session, webhook: Webhook) -> WebhookView:
    return views(session, [webhook])[0]


def views(session: Session, webhooks: Sequence[Webhook]) -> list[WebhookView]:
    waiting = repository.waiting_counts(session, [each.id for each in webhooks])
    names = collection_names(session, [each.collection_id for each in webhooks if each.collection_id])
    return [
        WebhookView(
            id=each.id,
            url=each.url,
            events=[WebhookEvent(name) for name in each.events],
            collection=names[each.collection_id] if each.collection_id else None,
            description=each.description,
            created_by=each.created_by,
            created_at=each.created_at,
            removed_at=each.removed_at,
            waiting=waiting.get(each.id, 0),
        )
        for each in webhooks
    ]


def page(session: Session, *, removed: bool, after: int | None, limit: int) -> list[WebhookView]:
    return views(session, repository.page(session, removed=removed, after=after, limit=limit))


def deliveries(session: Session, webhook_id: int, *, before: int | None, limit: int) -> list[DeliveryView]:
    """Return deliveries, newest first. Raises NotFound."""
    webhook = get(session, webhook_id)
    head = repository.head(session, webhook.id)
    return [
        delivery_view(each, head) for each in repository.deliveries(session, webhook.id, before=before, limit=limit)
    ]


def delivery_view(delivery: WebhookDelivery, head: WebhookDelivery | None = None) -> DeliveryView:
    """Show a delivery. head: the oldest event that its webhook waits for, which those behind it must not overtake."""
    ended = delivery.delivered_at or delivery.failed_at
    blocked = None if ended or delivery.event_seq is None or head is None or head.id == delivery.id else head
    return DeliveryView(
        id=delivery.id,
        message_id=message_name(delivery.message_id),
        event_seq=delivery.event_seq,
        type=delivery.payload["type"],
        state="delivered" if delivery.delivered_at else "failed" if delivery.failed_at else "waiting",
        attempts=delivery.attempts,
        next_at=None if ended or blocked else delivery.next_at,
        waits_for=_described(blocked) if blocked else "",
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        created_at=delivery.created_at,
        delivered_at=delivery.delivered_at,
        failed_at=delivery.failed_at,
        payload=delivery.payload,
    )


def _described(head: WebhookDelivery) -> str:
    tries = f", tried {head.attempts} time{'' if head.attempts == 1 else 's'}" if head.attempts else ""
    return f"delivery {head.id}{tries}{f': {head.last_error}' if head.last_error else ''}"


def _require_kept(webhook: Webhook) -> None:
    if webhook.removed_at is not None:
        raise WrongState(
            f"Webhook {webhook.id} was removed.", "`melo webhook list` shows those that are told of events."
        )


def _no_webhook(webhook_id: int) -> NotFound:
    return NotFound(f"There is no webhook {webhook_id}.", "`melo webhook list` shows those that exist.")
