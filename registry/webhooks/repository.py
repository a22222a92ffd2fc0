"""Queries on webhooks, their deliveries, and the events still to be sent."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.orm import Session

from registry.tables.audit import AuditEvent
from registry.tables.webhooks import PENDING, Webhook, WebhookDelivery

_IS_PENDING = text(PENDING)


def by_id(session: Session, webhook_id: int) -> Webhook | None:
    return session.get(Webhook, webhook_id)


def lock(session: Session, webhook_id: int) -> Webhook | None:
    query = select(Webhook).where(Webhook.id == webhook_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def page(session: Session, *, removed: bool, after: int | None, limit: int) -> Sequence[Webhook]:
    """Return webhooks in the order of their ids."""
    query = select(Webhook).where(Webhook.id > (after or 0)).order_by(Webhook.id).limit(limit)
    if not removed:
        query = query.where(Webhook.removed_at.is_(None))
    return session.scalars(query).all()


def waiting_counts(session: Session, webhook_ids: Sequence[int]) -> dict[int, int]:
    query = (
        select(WebhookDelivery.webhook_id, func.count())
        .where(WebhookDelivery.webhook_id.in_(webhook_ids), _IS_PENDING)
        .group_by(WebhookDelivery.webhook_id)
    )
    return dict(session.execute(query).all())


def lock_behind(session: Session, limit: int) -> Sequence[Webhook]:
    """Lock webhooks that have not considered the newest events yet, against other relays until the transaction ends."""
    newest = select(func.max(AuditEvent.seq)).scalar_subquery()
    query = (
        select(Webhook)
        .where(Webhook.removed_at.is_(None), Webhook.seen_seq < newest)
        .order_by(Webhook.seen_seq)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return session.scalars(query.execution_options(populate_existing=True)).all()


def events_after(session: Session, seq: int, limit: int) -> Sequence[AuditEvent]:
    return session.scalars(select(AuditEvent).where(AuditEvent.seq > seq).order_by(AuditEvent.seq).limit(limit)).all()


def add_deliveries(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        session.execute(insert(WebhookDelivery), rows)


def lock_due(session: Session, limit: int, webhook_id: int | None) -> Sequence[tuple[WebhookDelivery, Webhook]]:
    """Lock the deliveries that are due, against other relays until the transaction ends.

    An event waits until the one before it was delivered or given up; a test waits for nothing.
    """
    heads = text(
        f"""
        SELECT head.id FROM webhooks w CROSS JOIN LATERAL (
            (SELECT id, next_at FROM webhook_deliveries
             WHERE webhook_id = w.id AND {PENDING} AND event_seq IS NOT NULL ORDER BY id LIMIT 1)
            UNION ALL
            (SELECT id, next_at FROM webhook_deliveries
             WHERE webhook_id = w.id AND {PENDING} AND event_seq IS NULL ORDER BY id LIMIT 1)
        ) head
        WHERE w.removed_at IS NULL AND (CAST(:only AS bigint) IS NULL OR w.id = :only)
          AND head.next_at <= clock_timestamp() ORDER BY head.next_at LIMIT :limit
        """
    )
    ids = session.scalars(heads, {"limit": limit, "only": webhook_id}).all()
    query = (
        select(WebhookDelivery, Webhook)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        # Repeated for the locked row: another relay may have taken it meanwhile.
        .where(WebhookDelivery.id.in_(ids), _IS_PENDING, WebhookDelivery.next_at <= func.clock_timestamp())
        .where(Webhook.removed_at.is_(None))
        .with_for_update(skip_locked=True, key_share=True, of=WebhookDelivery)
    )
    return [(delivery, webhook) for delivery, webhook in session.execute(query)] if ids else []


def head(session: Session, webhook_id: int) -> WebhookDelivery | None:
    """Return the oldest event that did not arrive yet and was not given up: those behind it wait for it."""
    query = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook_id, _IS_PENDING, WebhookDelivery.event_seq.is_not(None)
    )
    return session.scalars(query.order_by(WebhookDelivery.id).limit(1)).one_or_none()


def lock_delivery(session: Session, delivery_id: int) -> WebhookDelivery:
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def give_up_pending(session: Session, webhook_id: int, reason: str) -> None:
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id, _IS_PENDING)
        .values(failed_at=func.now(), last_error=reason)
        .execution_options(synchronize_session=False)
    )


def deliveries(session: Session, webhook_id: int, *, before: int | None, limit: int) -> Sequence[WebhookDelivery]:
    """Return deliveries, newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    return session.scalars(query.order_by(WebhookDelivery.id.desc()).limit(limit)).all()
