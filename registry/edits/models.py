"""Tables: edits, which never change, and the batches they are submitted and decided in."""

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from registry.orm import Base, Key, LaterMoment, Moment, Sha256


class Batch(Base):
    """Edits submitted together: decided, trained and applied as one."""

    __tablename__ = "batches"
    __table_args__ = (Index(None, "collection_id", "id"),)

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    state: Mapped[str]
    message: Mapped[str] = mapped_column(server_default="")
    source: Mapped[str] = mapped_column(server_default="")  # the file's name, where there was one
    submitted_by: Mapped[str]
    submitted_at: Mapped[Moment]
    decided_by: Mapped[str | None]
    decided_at: Mapped[LaterMoment]
    reason: Mapped[str | None]
    edit_count: Mapped[int]
    edits_digest: Mapped[Sha256]


class Edit(Base):
    """A correction. Never updated: another edit replaces it."""

    __tablename__ = "edits"
    __table_args__ = (
        UniqueConstraint("batch_id", "position"),
        Index(None, "collection_id", "prompt_key"),
        Index(None, "replaces"),
    )

    id: Mapped[Key]
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    position: Mapped[int]  # in the submission, from 1
    prompt: Mapped[str]
    target: Mapped[str]
    rephrases: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    unchanged: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # must answer as before
    kind: Mapped[str]
    author: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
    source: Mapped[str] = mapped_column(server_default="")
    replaces: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("edits.id"))
    prompt_key: Mapped[Sha256]
    digest: Mapped[Sha256]
    created_at: Mapped[Moment]
