"""Tables: edits, which never change; the batches in which they are submitted and decided on; and their approvals."""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Json, Key, LaterMoment, Moment, Sha256


class Batch(Base):
    """Edits submitted together: decided, trained and applied as one."""

    __tablename__ = "batches"
    __table_args__ = (Index(None, "collection_id", "id"),)

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    state: Mapped[str]
    message: Mapped[str] = mapped_column(server_default="")
    source: Mapped[str] = mapped_column(server_default="")  # the file's name, if there was one
    submitted_by: Mapped[str]
    submitted_at: Mapped[Moment]
    decided_by: Mapped[str | None]
    decided_at: Mapped[LaterMoment]
    reason: Mapped[str | None]
    approvals_needed: Mapped[int | None] = mapped_column(Integer)  # by the policy at the time of the approvals
    edit_count: Mapped[int]
    edits_digest: Mapped[Sha256]
    priority: Mapped[str] = mapped_column(server_default="normal")
    deadline: Mapped[LaterMoment]  # after it, the batch is no longer applied
    training: Mapped[Json] = mapped_column(server_default="{}")  # its settings where they differ from the collection's


class Approval(Base):
    """An approval of a batch, in whole or in part. Never changed, never withdrawn."""

    __tablename__ = "approvals"
    __table_args__ = (UniqueConstraint("batch_id", "actor"),)

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    actor: Mapped[str]
    role: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
    declined: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")  # edits left out of the batch
    created_at: Mapped[Moment]


class Edit(Base):
    """A correction. Never updated: another edit replaces it. Only its content may be erased, once."""

    __tablename__ = "edits"
    __table_args__ = (
        UniqueConstraint("batch_id", "position"),
        Index(None, "collection_id", "prompt_key"),
        Index(None, "collection_id", "id"),
        Index(None, "replaces"),
        Index("edits_erased_idx", "collection_id", postgresql_where=text("erased_at IS NOT NULL")),
    )

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    position: Mapped[int]  # in the submission, from 1
    prompt: Mapped[str]
    target: Mapped[str]
    alternatives: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # other answers that are right
    rephrases: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    unchanged: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # prompts to answer as before
    kind: Mapped[str]
    author: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
    source: Mapped[str] = mapped_column(server_default="")
    replaces: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("edits.id"))
    prompt_key: Mapped[Sha256]
    digest: Mapped[Sha256]
    record_digest: Mapped[Sha256]  # over all that the submission said of it
    created_at: Mapped[Moment]
    erased_at: Mapped[LaterMoment]  # its content is gone; the digests remain those of the original content
