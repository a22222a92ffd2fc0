"""Tables: collections, and the encoder statistics with which their keys are whitened."""

from sqlalchemy import Double, ForeignKey, Integer, Text, false
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Json, Key, Moment, Sha256


class Collection(Base):
    """A line of versions over one base model. Model and method never change after creation."""

    __tablename__ = "collections"

    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]  # the name that the user gave
    model_digest: Mapped[Sha256]
    model_files: Mapped[Json] = mapped_column(server_default="{}")  # SHA-256 by name, to say which one changed
    window: Mapped[int]  # the model's longest input, in tokens
    method: Mapped[Json]  # settings that melo_core understands
    encoder: Mapped[str]
    encoder_digest: Mapped[str | None]  # written once, by the first job that finishes, which may be a preflight
    # The policy for decisions on its batches: it may change, with an event that records the reason.
    self_approval: Mapped[bool] = mapped_column(server_default=false())
    approvals_needed: Mapped[int] = mapped_column(Integer, server_default="1")  # from this many different people
    approvers: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # empty: everybody with the role
    preflight: Mapped[str] = mapped_column(server_default="keys")
    left_alone_needed: Mapped[float | None] = mapped_column(Double)  # share of near misses needed for an approval
    preflight_limits: Mapped[Json] = mapped_column(server_default="{}")  # lower than the operator's settings
    # What is kept of answers, under the same policy.
    log_share: Mapped[float] = mapped_column(Double, server_default="0")  # of responses; 0: off, 1: all
    log_text: Mapped[bool] = mapped_column(server_default=false())  # whether with question and answer
    log_days: Mapped[int] = mapped_column(Integer, server_default="30")
    queue: Mapped[str] = mapped_column(server_default="open")  # open, paused or draining
    created_by: Mapped[str]
    created_at: Mapped[Moment]


class Calibration(Base):
    """The encoder's whitening statistics, one row per collection."""

    __tablename__ = "calibrations"

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"), unique=True)
    data: Mapped[bytes]  # safetensors
    sha256: Mapped[Sha256]
    created_at: Mapped[Moment]
