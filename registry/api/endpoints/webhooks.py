"""/v1/webhooks"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from registry.api.http import ActorDep, SessionDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById
from registry.base.vocabulary import Role
from registry.base.wire import Reason
from registry.webhooks import service
from registry.webhooks.schemas import CreatedWebhook, DeliveryView, NewWebhook, WebhookView

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=RepeatableRoute)

WebhookId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.post("", status_code=201, dependencies=[needs(Role.ADMIN)])
def create_webhook(
    new: NewWebhook, request: Request, response: Response, session: SessionDep, actor: ActorDep
) -> CreatedWebhook:
    """Send events to an address from now on. The secret that signs them is shown only in this answer."""
    response.headers["Cache-Control"] = "no-store"
    allow_private = request.app.state.settings.webhook_allow_private
    return service.create(session, new, actor, allow_private=allow_private)


@router.get("", dependencies=[needs(Role.ADMIN)])
def list_webhooks(
    session: SessionDep,
    page: ById,
    removed: Annotated[bool, Query(description="also those that were removed")] = False,
) -> list[WebhookView]:
    """List webhooks by id."""
    found = service.page(session, removed=removed, after=page.key, limit=page.rows)
    return page.cut(found, lambda webhook: webhook.id)


@router.get("/{webhook_id}", dependencies=[needs(Role.ADMIN)])
def show_webhook(webhook_id: WebhookId, session: SessionDep) -> WebhookView:
    """Show a webhook, and how many events are waiting to be delivered to it."""
    return service.view(session, service.get(session, webhook_id))


@router.delete("/{webhook_id}", dependencies=[needs(Role.ADMIN)])
def remove_webhook(
    webhook_id: WebhookId, reason: Annotated[Reason, Query()], session: SessionDep, actor: ActorDep
) -> WebhookView:
    """Remove a webhook. Past deliveries stay listed; pending ones are given up."""
    return service.view(session, service.remove(session, webhook_id, actor, reason))


@router.get("/{webhook_id}/deliveries", dependencies=[needs(Role.ADMIN)])
def list_deliveries(webhook_id: WebhookId, session: SessionDep, page: ById) -> list[DeliveryView]:
    """List deliveries, sent and pending, newest first."""
    found = service.deliveries(session, webhook_id, before=page.key, limit=page.rows)
    return page.cut(found, lambda delivery: delivery.id)


@router.post("/{webhook_id}/test", status_code=202, dependencies=[needs(Role.ADMIN)])
def test_webhook(webhook_id: WebhookId, session: SessionDep) -> DeliveryView:
    """Send a test message once; the list of deliveries shows the outcome."""
    return service.test(session, webhook_id)
