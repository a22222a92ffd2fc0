"""Tables: the audit events, one hash chain over the whole record, and the identity of the registry."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, ForeignKey, Index, func, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Moment, Sha256


class AuditEvent(Base):
    """One change of state. `seq` has no gaps; `hash` covers everything before it, and `signature` covers the hash."""

    __tablename__ = "audit_events"
    __table_args__ = (Index(None, "collection_id", "seq"), Index(None, "subject", "seq"), Index(None, "actor"))

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    actor: Mapped[str]
    role: Mapped[str]
    action: Mapped[str]
    collection_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("collections.id"))
    subject: Mapped[str]  # such as batch/3
    before: Mapped[str | None]  # digests of the subject's content
    after: Mapped[str | None]
    reason: Mapped[str]
    request_id: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
    previous_hash: Mapped[Sha256]
    hash: Mapped[Sha256]
    signed_by: Mapped[str | None]  # the public key; None: the process that wrote it had no key
    signature: Mapped[str | None]  # base64


class RegistryIdentity(Base):
    """One row, created with the schema. A signed head names it, so that a head of another registry is not accepted."""

    __tablename__ = "registry_identity"

    one: Mapped[bool] = mapped_column(primary_key=True, server_default=true())
    registry_id: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    created_at: Mapped[Moment]
