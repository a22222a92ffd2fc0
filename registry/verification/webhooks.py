"""Compares webhooks with their events, as part of verifying the record."""

from sqlalchemy.orm import Session

from registry.base.vocabulary import Action
from registry.tables.webhooks import Webhook
from registry.verification.verified import Verified, made_and_ended
from registry.webhooks.service import content_digest


def verify_webhooks(session: Session) -> Verified:
    """Verify that each webhook was added and removed by events that match it."""
    events = Action.WEBHOOK_CREATE, Action.WEBHOOK_DELETE
    for made, webhook, ended in made_and_ended(session, Webhook, "webhook", *events):
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
