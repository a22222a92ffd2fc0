"""Tables: API keys, the role of each in each collection, and the aliases that not everybody may set."""

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Key, LaterMoment, Moment, Sha256


class ApiKey(Base):
    """Lets in whoever holds its secret. What it may do never changes: another key replaces it."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("api_keys_name_idx", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
        UniqueConstraint("prefix"),
    )

    id: Mapped[Key]
    name: Mapped[str]
    actor: Mapped[str]  # as the record names whoever acts with it
    prefix: Mapped[str]
    secret_sha256: Mapped[Sha256]
    created_by: Mapped[str]
    created_at: Mapped[Moment]
    expires_at: Mapped[LaterMoment]
    revoked_at: Mapped[LaterMoment]
    revoked_by: Mapped[str | None]
    last_used_at: Mapped[LaterMoment]  # to the minute


class ApiKeyRole(Base):
    """A key's role in a collection, or, without one, in all."""

    __tablename__ = "api_key_roles"
    __table_args__ = (
        UniqueConstraint("key_id", "collection_id"),
        Index("api_key_roles_everywhere_idx", "key_id", unique=True, postgresql_where=text("collection_id IS NULL")),
        Index(None, "collection_id"),
    )

    id: Mapped[Key]
    key_id: Mapped[int] = mapped_column(ForeignKey("api_keys.id"))
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id"))
    role: Mapped[str]


class AliasProtection(Base):
    """Setting this alias needs this role. Its events keep who protected it when, and until when."""

    __tablename__ = "alias_protections"

    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    protected_by: Mapped[str]
    reason: Mapped[str]
    protected_at: Mapped[Moment]
