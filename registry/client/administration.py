"""Client methods for API keys, webhooks, the audit log and health."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter

from registry.access.schemas import CallerView, CreatedKeyView, KeyView
from registry.audit.schemas import (
    ChangesView,
    Checkpoint,
    ComparisonView,
    EventView,
    LogEntry,
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
    """Administration methods of both clients."""

    # API keys

    @call
    def whoami(self, api_key: str | None = None) -> Exchange[CallerView]:
        """Return who makes the request and what they may do where.

        api_key: another key than the client's own, to be looked up in place of it.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        return one(CallerView, "GET", "/v1/whoami", headers=headers)

    @call
    def create_key(
        self,
        name: str,
        roles: Sequence[Mapping[str, str | None]],
        *,
        actor: str | None = None,
        expires_at: datetime | None = None,
    ) -> Exchange[CreatedKeyView]:
        """Create an API key.

        roles: records with `role` and perhaps `collection`. The answer's `key` is shown only this once.
        """
        body = {"name": name, "roles": [dict(role) for role in roles], "actor": actor, "expires_at": _time(expires_at)}
        return one(CreatedKeyView, "POST", "/v1/keys", json=body)

    @call
    def api_keys(self, *, limit: int | None = None) -> Exchange[list[KeyView]]:
        """List API keys, newest first, including revoked ones."""
        return many(KeyView, "/v1/keys", limit)

    @call
    def rotate_key(
        self, key_id: int, reason: str, *, expires_at: datetime | Literal["never"] | None = None
    ) -> Exchange[CreatedKeyView]:
        """Create a key with the same name, actor and roles, and revoke the old one.

        expires_at: None: the new key lasts as long as the old one did.
        """
        body: dict[str, str | None] = {"reason": reason}
        if expires_at is not None:
            body["expires_at"] = None if expires_at == "never" else _time(expires_at)
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
        """Create a webhook. The answer's secret is shown only this once."""
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
        """List deliveries, newest first."""
        return many(DeliveryView, f"/v1/webhooks/{webhook_id}/deliveries", limit)

    @call
    def test_webhook(self, webhook_id: int) -> Exchange[DeliveryView]:
        """Send a test message and return its delivery; `deliveries` shows the outcome."""
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
        """List events, newest first."""
        return many(EventView, "/v1/audit", limit, collection=collection, subject=subject)

    @call
    def changes(self, after: int | None = None, *, wait_seconds: float = 0) -> Exchange[ChangesView]:
        """Return in which collections something changed after an event, waiting for a change if there is none yet."""
        params = {"wait": wait_seconds} | ({} if after is None else {"after": after})
        return one(ChangesView, "GET", "/v1/audit/changes", params=params)

    @call
    def verify(self) -> Exchange[VerificationView]:
        """Verify the whole record, which may take a while because all of it is read."""
        return one(VerificationView, "GET", "/v1/audit/verify", patient=True)

    @stream
    def verify_in_steps(self) -> Lines[ProgressView | VerificationView]:
        """Verify the whole record and report progress; the result comes last."""
        return Lines("/v1/audit/verify/stream", STEP.validate_json, close=_require_result)

    @stream
    def export_events(self, since: int = 0) -> Lines[bytes]:
        """Export the events after seq `since`, oldest first, one line of JSON each."""
        return Lines("/v1/audit/export", bytes, {"since": since})

    @call
    def checkpoint(self) -> Exchange[Checkpoint]:
        """Return the head of the chain, signed by the server."""
        return one(Checkpoint, "POST", "/v1/audit/checkpoint")

    @call
    def log_entry(self, checkpoint: Checkpoint) -> Exchange[LogEntry]:
        """Return a statement about a checkpoint, signed by the server, for a transparency log such as Rekor."""
        return one(LogEntry, "POST", "/v1/audit/checkpoint/log-entry", json=checkpoint.model_dump())

    @call
    def compare(self, checkpoint: Checkpoint, public_key: str | None = None) -> Exchange[ComparisonView]:
        """Compare the record with a signed checkpoint, which `public_key` must have signed, if given."""
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
        """Return True if the API is ready; otherwise raise a MeloClientError that says what it is waiting for."""
        yield Asked("GET", "/readyz")
        return True


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _require_result(last: ProgressView | VerificationView | None) -> None:
    if not isinstance(last, VerificationView):
        raise MeloClientError(
            "The verification did not end", "The server stopped before it sent a result.", "See its log, and try again."
        )
