"""API keys, webhooks, the audit log, and whether the registry runs."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import TypeAdapter

from registry.access.schemas import CreatedKeyView, KeyView
from registry.audit.schemas import (
    Checkpoint,
    ComparisonView,
    EventView,
    ProgressView,
    PublicKeyView,
    VerificationView,
)
from registry.base.vocabulary import WebhookEvent
from registry.client.calls import call, stream
from registry.client.errors import MeloClientError
from registry.client.exchanges import Asked, Exchange, Lines, many, one
from registry.jobs.schemas import WorkerView
from registry.webhooks.schemas import CreatedWebhook, DeliveryView, WebhookView

STEP: TypeAdapter[ProgressView | VerificationView] = TypeAdapter(ProgressView | VerificationView)


class Administration:
    """Part of both clients."""

    # API keys

    @call
    def create_key(
        self,
        name: str,
        roles: Sequence[Mapping[str, str | None]],
        *,
        actor: str | None = None,
        expires_at: datetime | None = None,
    ) -> Exchange[CreatedKeyView]:
        """roles: records with `role` and perhaps `collection`. The answer's `key` is shown this once."""
        body = {"name": name, "roles": [dict(role) for role in roles], "actor": actor, "expires_at": _time(expires_at)}
        return one(CreatedKeyView, "POST", "/v1/keys", json=body)

    @call
    def api_keys(self, *, limit: int | None = None) -> Exchange[list[KeyView]]:
        """Newest first, revoked ones too."""
        return many(KeyView, "/v1/keys", limit)

    @call
    def rotate_key(self, key_id: int, reason: str, *, expires_at: datetime | None = None) -> Exchange[CreatedKeyView]:
        """Another key with the same name, actor and roles; the old one is revoked."""
        body = {"reason": reason, "expires_at": _time(expires_at)}
        return one(CreatedKeyView, "POST", f"/v1/keys/{key_id}/rotate", json=body)

    @call
    def revoke_key(self, key_id: int, reason: str) -> Exchange[KeyView]:
        return one(KeyView, "DELETE", f"/v1/keys/{key_id}", params={"reason": reason})

    # Webhooks

    @call
    def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[WebhookEvent | str] = (WebhookEvent.VERSION, WebhookEvent.ALIAS),
        collection: str | None = None,
        description: str = "",
    ) -> Exchange[CreatedWebhook]:
        """The answer's secret is shown this once."""
        body = {"url": url, "events": list(events), "collection": collection, "description": description}
        return one(CreatedWebhook, "POST", "/v1/webhooks", json=body)

    @call
    def webhooks(self, *, removed: bool = False, limit: int | None = None) -> Exchange[list[WebhookView]]:
        return many(WebhookView, "/v1/webhooks", limit, removed=removed)

    @call
    def webhook(self, webhook_id: int) -> Exchange[WebhookView]:
        return one(WebhookView, "GET", f"/v1/webhooks/{webhook_id}")

    @call
    def remove_webhook(self, webhook_id: int, reason: str) -> Exchange[WebhookView]:
        return one(WebhookView, "DELETE", f"/v1/webhooks/{webhook_id}", params={"reason": reason})

    @call
    def deliveries(self, webhook_id: int, *, limit: int | None = 100) -> Exchange[list[DeliveryView]]:
        """Newest first."""
        return many(DeliveryView, f"/v1/webhooks/{webhook_id}/deliveries", limit)

    @call
    def test_webhook(self, webhook_id: int) -> Exchange[DeliveryView]:
        """The message that is now on its way; `deliveries` shows how it went."""
        return one(DeliveryView, "POST", f"/v1/webhooks/{webhook_id}/test")

    # Audit

    @call
    def audit(
        self,
        *,
        collection: str | None = None,
        subject: str | None = None,
        limit: int | None = 100,
    ) -> Exchange[list[EventView]]:
        """Newest first."""
        return many(EventView, "/v1/audit", limit, collection=collection, subject=subject)

    @call
    def verify(self) -> Exchange[VerificationView]:
        """Recompute everything. It reads the whole record, so it may take its time."""
        return one(VerificationView, "GET", "/v1/audit/verify", patient=True)

    @stream
    def verify_in_steps(self) -> Lines[ProgressView | VerificationView]:
        """The same, saying what it is at; the result comes last."""
        return Lines("/v1/audit/verify/stream", STEP.validate_json, close=_require_result)

    @stream
    def export_events(self, since: int = 0) -> Lines[bytes]:
        """The events after seq `since`, oldest first, a line of JSON each."""
        return Lines("/v1/audit/export", bytes, {"since": since})

    @call
    def checkpoint(self) -> Exchange[Checkpoint]:
        """The head of the chain, signed by the server."""
        return one(Checkpoint, "POST", "/v1/audit/checkpoint")

    @call
    def compare(self, checkpoint: Checkpoint, public_key: str | None = None) -> Exchange[ComparisonView]:
        """Whether the record is a continuation of the one that was signed, by this key where one is given."""
        body = {"checkpoint": checkpoint.model_dump(), "public_key": public_key}
        return one(ComparisonView, "POST", "/v1/audit/checkpoint/compare", json=body)

    @call
    def public_key(self) -> Exchange[PublicKeyView]:
        return one(PublicKeyView, "GET", "/v1/audit/public-key")

    # Operation

    @call
    def workers(self) -> Exchange[list[WorkerView]]:
        return many(WorkerView, "/v1/workers")

    @call
    def ready(self) -> Exchange[bool]:
        """True, or a MeloClientError that says what the API waits for."""
        yield Asked("GET", "/readyz")
        return True


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _require_result(last: ProgressView | VerificationView | None) -> None:
    if not isinstance(last, VerificationView):
        raise MeloClientError(
            "The verification did not end", "The server stopped before its result.", "See its log, and try again."
        )
