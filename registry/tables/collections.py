"""Tables: collections, and the encoder statistics that each one's keys are whitened with."""

from sqlalchemy import Double, ForeignKey, Integer, Text, false
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Json, Key, Moment, Sha256


class Collection(Base):
    """A line of versions over one base model. Model and method never change after creation."""

    __tablename__ = "collections"

    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]  # as the user named it
    model_digest: Mapped[Sha256]
    window: Mapped[int]  # the model's longest input, in tokens
    method: Mapped[Json]  # settings that melo_core understands
    encoder: Mapped[str]
    encoder_digest: Mapped[str | None]  # written once, by the first job that finishes, which may be a preflight
    # The policy, under which its batches are decided on: it may change, with an event that says why.
    self_approval: Mapped[bool] = mapped_column(server_default=false())
    approvals_needed: Mapped[int] = mapped_column(Integer, server_default="1")  # by as many different people
    approvers: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # empty: whoever has the role
    preflight: Mapped[str] = mapped_column(server_default="keys")
    left_alone_needed: Mapped[float | None] = mapped_column(Double)  # share of near misses, for an approval
    queue: Mapped[str] = mapped_column(server_default="open")  # whether its jobs are begun
    created_by: Mapped[str]
    created_at: Mapped[Moment]


class Calibration(Base):
    """Whitening statistics of the encoder, once per collection."""

    __tablename__ = "calibrations"

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"), unique=True)
    data: Mapped[bytes]  # safetensors
    sha256: Mapped[Sha256]
    created_at: Mapped[Moment]
