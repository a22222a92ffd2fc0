"""API schemas of webhooks and their deliveries."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from registry.base.vocabulary import WebhookEvent
from registry.base.wire import Answer, Body, Name, ShortText

Url = Annotated[ShortText, Field(min_length=1, examples=["https://example.org/melo"])]


class NewWebhook(Body):
    url: Url = Field(description="http or https; where each event is sent to, as a POST request")
    events: list[WebhookEvent] = Field(
        default=[WebhookEvent.VERSION, WebhookEvent.ALIAS], min_length=1, max_length=10,
        description="what to tell of: new versions, moved aliases, the steps of batches",
    )  # fmt: skip
    collection: Name | None = Field(default=None, description="only this collection's events; null: all collections'")
    description: ShortText = Field(default="", examples=["clears the answer cache"])


class WebhookView(Answer):
    id: int
    url: str
    events: list[WebhookEvent]
    collection: str | None
    description: str
    created_by: str
    created_at: datetime
    removed_at: datetime | None
    waiting: int = Field(description="events on their way that did not arrive yet")


class CreatedWebhook(WebhookView):
    secret: str = Field(
        description="what signatures are verified with; shown this once",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )


class DeliveryView(Answer):
    id: int
    message_id: str = Field(description="the header webhook-id, the same at every attempt")
    event_seq: int | None = Field(description="the audit event that it tells of; null: a test")
    type: str = Field(examples=["version.apply"])
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    next_at: datetime | None = Field(description="when it is tried; null: no more, or after what it waits for")
    waits_for: str = Field(
        description="the delivery that has to arrive or be given up first, and why it did not arrive; or empty",
        examples=["delivery 7, tried 3 times: It answered 503 Service Unavailable."],
    )
    last_status: int | None = Field(description="the HTTP status of the last answer", examples=[204])
    last_error: str | None = Field(examples=["It answered 503 Service Unavailable."])
    created_at: datetime
    delivered_at: datetime | None
    failed_at: datetime | None
    payload: dict[str, Any] = Field(description="the body that is sent")
