"""Tables: jobs, the messages that wake a worker, and the workers' heartbeats."""

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from registry.base.vocabulary import JobState
from registry.tables.orm import Base, Json, Key, LaterMoment, Moment

LIVE = f"state IN ('{JobState.QUEUED}', '{JobState.RUNNING}', '{JobState.SUCCEEDED}')"

WAITING = f"state IN ('{JobState.QUEUED}', '{JobState.RUNNING}')"


class Job(Base):
    """Work on one batch: its preflight, or its training. Whoever holds the attempt token may finish it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_one_live_per_batch_idx", "batch_id", "kind", unique=True, postgresql_where=text(LIVE)),
        Index("jobs_lease_idx", "lease_until", postgresql_where=text("state = 'running'")),
        Index("jobs_queued_idx", "created_at", postgresql_where=text("state = 'queued'")),
        Index("jobs_live_idx", "collection_id", "id", postgresql_where=text(WAITING)),
        Index(None, "batch_id", "id"),
    )

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    kind: Mapped[str] = mapped_column(server_default="train")
    state: Mapped[str]
    attempt: Mapped[int] = mapped_column(server_default="0")
    attempt_token: Mapped[UUID | None]
    worker: Mapped[str | None]
    lease_until: Mapped[LaterMoment]
    device: Mapped[str | None]
    libraries: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    seed: Mapped[int] = mapped_column(BigInteger)
    settings: Mapped[Json]
    trained_together: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))  # edits, also those of other jobs
    not_before: Mapped[LaterMoment]  # the end of the pause after a transient failure
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    loss_curve: Mapped[list[Any] | None] = mapped_column(JSONB)
    timings: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    report: Mapped[list[Any] | None] = mapped_column(JSONB)  # EditReports, or of a preflight EditPreflights
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None]
    created_at: Mapped[Moment]
    started_at: Mapped[LaterMoment]
    finished_at: Mapped[LaterMoment]


class OutboxMessage(Base):
    """A message still to be sent, written in the transaction that made it necessary."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_unsent_idx", "id", postgresql_where=text("sent_at IS NULL")),
        Index(None, "job_id"),
    )

    id: Mapped[Key]
    topic: Mapped[str]
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    payload: Mapped[Json]
    created_at: Mapped[Moment]
    sent_at: Mapped[LaterMoment]
    attempts: Mapped[int] = mapped_column(server_default="0")


class WorkerHeartbeat(Base):
    """The last heartbeat of each worker."""

    __tablename__ = "worker_heartbeats"

    worker: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    seen_at: Mapped[Moment]
    models: Mapped[Json]
