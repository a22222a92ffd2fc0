"""Tables: API keys, their role in each collection, and the aliases that not every approver may set."""

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Key, LaterMoment, Moment, Sha256


class ApiKey(Base):
    """A key that admits whoever holds its secret. Its permissions never change: another key replaces it."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("api_keys_name_idx", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
        UniqueConstraint("prefix"),
    )

    id: Mapped[Key]
    name: Mapped[str]
    actor: Mapped[str]  # the name in the record of whoever acts with it
    prefix: Mapped[str]
    secret_sha256: Mapped[Sha256]
    created_by: Mapped[str]
    created_at: Mapped[Moment]
    expires_at: Mapped[LaterMoment]
    revoked_at: Mapped[LaterMoment]
    revoked_by: Mapped[str | None]
    last_used_at: Mapped[LaterMoment]  # accurate to the minute


class ApiKeyRole(Base):
    """A key's role in one collection or, if none is named, in all."""

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
    """The role needed to set an alias. The alias's events record who protected it, when, and until when."""

    __tablename__ = "alias_protections"

    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    protected_by: Mapped[str]
    reason: Mapped[str]
    protected_at: Mapped[Moment]
