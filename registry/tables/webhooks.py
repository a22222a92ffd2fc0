"""Tables: webhooks and their deliveries."""

from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Json, Key, LaterMoment, Moment

PENDING = "delivered_at IS NULL AND failed_at IS NULL"


class Webhook(Base):
    """An address to which events are sent. `seen_seq` is the last event that was considered for it."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "collection_id"),)

    id: Mapped[Key]
    collection_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("collections.id"))  # None: all of them
    url: Mapped[str]
    secret: Mapped[str | None]  # in plain text, as signing needs it; deleted when the webhook is removed
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    description: Mapped[str] = mapped_column(server_default="")
    created_by: Mapped[str]
    created_at: Mapped[Moment]
    seen_seq: Mapped[int]
    removed_at: Mapped[LaterMoment]


class WebhookDelivery(Base):
    """An event for a webhook, until it is delivered or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_seq"),
        Index("webhook_deliveries_pending_idx", "webhook_id", "id", postgresql_where=text(PENDING)),
        Index(None, "webhook_id", "id"),
        Index(None, "event_seq"),
    )

    id: Mapped[Key]
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"))
    event_seq: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("audit_events.seq"))  # None: a test
    message_id: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    payload: Mapped[Json]
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_at: Mapped[Moment]
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None]
    created_at: Mapped[Moment]
    delivered_at: Mapped[LaterMoment]
    failed_at: Mapped[LaterMoment]
