"""Tables: the log of what was asked and answered, as far as a collection's policy keeps it, and what people said of it.

Neither is part of the record: rows are deleted when they are as old as the policy says.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Index, Integer, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Key, LaterMoment, Moment, Sha256


class LoggedAnswer(Base):
    """One answer; a response with several choices or prompts has several. Only its text may be erased, once."""

    __tablename__ = "answers"
    __table_args__ = (
        UniqueConstraint("response_id", "choice"),
        Index(None, "collection_id", "id"),
        Index(None, "collection_id", "asked_at"),
        Index("answers_edit_id_idx", "edit_id", "id", postgresql_where=text("edit_id IS NOT NULL")),
    )

    id: Mapped[Key]
    response_id: Mapped[str]
    choice: Mapped[int] = mapped_column(Integer)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    model: Mapped[str]  # as it was asked for, such as facts@production
    version: Mapped[int] = mapped_column(Integer)  # 0: the base model
    digest: Mapped[Sha256]
    asked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    asked_by: Mapped[str]
    kind: Mapped[str]
    edit_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("edits.id"))  # None: the base model answered
    said_to: Mapped[str | None]  # None: no edit covered the question
    canary: Mapped[bool]  # whether the alias's canary answered
    considered: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)  # see registry.answers.schemas.Considered
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    first_token_ms: Mapped[int | None]
    question: Mapped[str | None]  # None: the policy keeps no text, or it was erased
    answer: Mapped[str | None]
    erased_at: Mapped[LaterMoment]


class Feedback(Base):
    """What somebody said of an answer. It may become a batch, and its text may be erased; each once."""

    __tablename__ = "feedback"
    __table_args__ = (Index(None, "collection_id", "id"), Index(None, "edit_id"), Index(None, "batch_id"))

    id: Mapped[Key]
    response_id: Mapped[str]
    choice: Mapped[int] = mapped_column(Integer)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    version: Mapped[int | None] = mapped_column(Integer)  # this and the edit: as logged; None: it was not
    edit_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("edits.id"))
    kind: Mapped[str]
    rating: Mapped[str]
    comment: Mapped[str] = mapped_column(server_default="")
    correction: Mapped[str | None]
    prompt: Mapped[str | None]  # as sent with it
    given_by: Mapped[str]
    given_at: Mapped[Moment]
    batch_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("batches.id"))  # the draft made of it
    erased_at: Mapped[LaterMoment]
