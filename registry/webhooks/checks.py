"""Comparing webhooks with their events: part of verifying the record."""

from collections.abc import Iterator

from sqlalchemy import String, and_, literal, select
from sqlalchemy.orm import Session, aliased

from registry.audit.models import AuditEvent
from registry.vocabulary import Action
from registry.webhooks.content import content_digest
from registry.webhooks.models import Webhook


def check_webhooks(session: Session) -> Iterator[tuple[str, list[str]]]:
    """Events go to no address, and are kept from none, but by an event."""
    created, removed = aliased(AuditEvent), aliased(AuditEvent)
    subject = literal("webhook/") + Webhook.id.cast(String)
    query = (
        select(created, Webhook, removed)
        .join(Webhook, and_(created.subject == subject, created.action == Action.WEBHOOK_CREATE), full=True)
        .outerjoin(removed, and_(removed.subject == subject, removed.action == Action.WEBHOOK_DELETE))
        .where(Webhook.id.is_not(None) | (created.action == Action.WEBHOOK_CREATE))
        .order_by(Webhook.id)
    )
    for made, webhook, ended in session.execute(query):
        if webhook is None:
            yield made.subject, ["it is missing: its event says that it was made"]
            continue
        wrong = []
        if made is None:
            wrong.append("the event of its creation is missing")
        elif (made.after, made.actor) != (content_digest(webhook), webhook.created_by):
            wrong.append("its address, events, collection or maker differ from the event of its creation")
        if (ended is None) != (webhook.removed_at is None):
            wrong.append("whether it is removed differs from its events")
        yield f"webhook/{webhook.id}", wrong
