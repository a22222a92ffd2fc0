"""Compares webhooks with their events, as part of verifying the record."""

from sqlalchemy.orm import Session

from registry.audit.details import WebhookCreate, read
from registry.base.vocabulary import Action
from registry.tables.webhooks import Webhook
from registry.verification.verified import Verified, is_just_before, made_and_ended
from registry.webhooks.service import content_digest, secret_digest


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
            wrong.append("its address, events, description, collection or maker differ from the event of its creation")
        elif not is_just_before(webhook.created_at, made.at):
            wrong.append("the time when it was added differs from its event")
        if (ended is None) != (webhook.removed_at is None):
            wrong.append("whether it is removed differs from its events")
        elif ended and not is_just_before(webhook.removed_at, ended.at):
            wrong.append("the time when it was removed differs from its event")
        details = read(WebhookCreate, made)
        if details and not wrong and secret_digest(webhook) != (None if ended else details.secret):
            wrong.append("its secret differs from the event of its creation")
        yield f"webhook/{webhook.id}", wrong
