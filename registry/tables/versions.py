"""Tables: versions, what they consist of, and the aliases that point at them.

A cluster or an activation has one row per state, with the range of versions for which the state holds: a version's
whole index is one query, and a new version costs what it changes. The ranges are queried with a version's
`content_version`, never with its number: a rollback has the state of the version that it restores, and adds only its
own row.
"""

from typing import Any

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, ExcludeConstraint, Range
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Json, Key, LaterMoment, Moment, Sha256

OPEN = "upper_inf(valid)"


def _as_range(column: str) -> Any:
    """Return an id as a range: GiST can then index it together with `valid` without btree_gist."""
    return literal_column(f"int8range({column}, {column}, '[]')")


class Version(Base):
    """An immutable state of a collection."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("collection_id", "number"),
        Index("versions_one_per_batch_idx", "batch_id", unique=True, postgresql_where=text("batch_id IS NOT NULL")),
        Index("versions_own_state_idx", "collection_id", "number", postgresql_where=text("content_version = number")),
        Index("versions_rollbacks_idx", "collection_id", "number", postgresql_where=text("kind = 'rollback'")),
        Index(None, "collection_id", "created_at", "number"),
    )

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    number: Mapped[int] = mapped_column(Integer)  # 1, 2, 3, … without gaps
    parent_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("versions.id"))
    kind: Mapped[str]
    message: Mapped[str] = mapped_column(server_default="")
    reason: Mapped[str] = mapped_column(server_default="")
    author: Mapped[str]
    batch_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("batches.id"))
    restores: Mapped[int | None] = mapped_column(Integer)  # the version whose content it restores; 0: the base model
    reverts: Mapped[int | None] = mapped_column(Integer)  # the version whose change it undoes
    content_version: Mapped[int] = mapped_column(Integer)  # where ranges are queried: itself, except for a rollback
    content_digest: Mapped[Sha256]
    content_state: Mapped[bytes]  # the set hash from which the next version's is computed
    edit_count: Mapped[int] = mapped_column(Integer)  # edits active in it
    cluster_count: Mapped[int] = mapped_column(Integer)
    block_count: Mapped[int] = mapped_column(Integer)  # blocks that points of its clusters lead to
    created_at: Mapped[Moment]


class Block(Base):
    """A trained low-rank block; never changed once written."""

    __tablename__ = "blocks"
    __table_args__ = (Index(None, "collection_id"), Index(None, "job_id"), Index(None, "sha256"))

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    data: Mapped[bytes]  # safetensors
    sha256: Mapped[Sha256]
    shapes: Mapped[Json]
    rank: Mapped[int] = mapped_column(Integer)
    scale: Mapped[float] = mapped_column(Double)
    loss: Mapped[float] = mapped_column(Double)  # at the end of its training
    iterations: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[Moment]
    erased_at: Mapped[LaterMoment]  # since then `data` is empty


class BlockEdit(Base):
    """The edits for which a block was trained: one by default."""

    __tablename__ = "block_edits"
    __table_args__ = (Index(None, "edit_id"),)

    block_id: Mapped[int] = mapped_column(ForeignKey("blocks.id"), primary_key=True)
    edit_id: Mapped[int] = mapped_column(ForeignKey("edits.id"), primary_key=True)


class Point(Base):
    """A key that leads to a block."""

    __tablename__ = "points"
    __table_args__ = (Index(None, "edit_id"), Index(None, "block_id"))

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    edit_id: Mapped[int] = mapped_column(ForeignKey("edits.id"))
    block_id: Mapped[int] = mapped_column(ForeignKey("blocks.id"))
    role: Mapped[str]
    key: Mapped[Any | None] = mapped_column(VECTOR)  # None: erased
    key_sha256: Mapped[Sha256]  # of the key as little-endian float32; kept when it is erased
    created_at: Mapped[Moment]
    erased_at: Mapped[LaterMoment]


class Cluster(Base):
    """One state of a cluster; `cluster_no` is its identity over its states."""

    __tablename__ = "clusters"
    __table_args__ = (
        ExcludeConstraint(
            (_as_range("cluster_no"), "="), ("valid", "&&"), name="clusters_one_state_excl", using="gist"
        ),
        Index("clusters_valid_idx", _as_range("collection_id"), "valid", postgresql_using="gist"),
        Index("clusters_members_idx", "members", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
        Index("clusters_begun_idx", "collection_id", text("lower(valid)"), "cluster_no"),
        Index("clusters_ended_idx", "collection_id", text("upper(valid)"), "cluster_no"),
        Index(None, "cluster_no"),
        Index("clusters_open_idx", "collection_id", "cluster_no", unique=True, postgresql_where=text(OPEN)),
    )

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    cluster_no: Mapped[int] = mapped_column(server_default=func.nextval(text("'cluster_numbers'")))
    centre: Mapped[Any | None] = mapped_column(VECTOR)  # None: erased, together with the label
    radius: Mapped[float] = mapped_column(Double)
    label: Mapped[list[int]] = mapped_column(ARRAY(Integer))  # the target's token ids
    members: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))  # point ids, in order
    digest: Mapped[Sha256]
    valid: Mapped[Range[int]] = mapped_column(INT4RANGE)
    erased_at: Mapped[LaterMoment]


class Activation(Base):
    """The versions in which an edit is active."""

    __tablename__ = "activations"
    __table_args__ = (
        ExcludeConstraint(
            (_as_range("edit_id"), "="), ("valid", "&&"), name="activations_one_state_excl", using="gist"
        ),
        Index("activations_valid_idx", _as_range("collection_id"), "valid", postgresql_using="gist"),
        # At most one active edit per prompt: a contradiction cannot be applied, whatever the code does.
        Index(
            "activations_one_per_prompt_idx",
            "collection_id",
            "prompt_key",
            unique=True,
            postgresql_where=text(OPEN),
        ),
        Index("activations_begun_idx", "collection_id", text("lower(valid)"), "edit_id"),
        Index("activations_ended_idx", "collection_id", text("upper(valid)"), "edit_id"),
        Index(None, "edit_id"),
    )

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    edit_id: Mapped[int] = mapped_column(ForeignKey("edits.id"))
    prompt_key: Mapped[Sha256]
    valid: Mapped[Range[int]] = mapped_column(INT4RANGE)


class Alias(Base):
    """The version at which a name pointed, and when; the row without `replaced_at` is the current one.

    A second version is the canary of a share of users or, where `share` is None, a shadow that is only compared.
    """

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["collection_id", "number"], ["versions.collection_id", "versions.number"]),
        ForeignKeyConstraint(["collection_id", "second"], ["versions.collection_id", "versions.number"]),
        Index(
            "aliases_current_idx",
            "collection_id",
            "name",
            unique=True,
            postgresql_where=text("replaced_at IS NULL"),
        ),
        Index(None, "collection_id", "name", "set_at"),
    )

    id: Mapped[Key]
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    name: Mapped[str]
    number: Mapped[int] = mapped_column(Integer)
    second: Mapped[int | None] = mapped_column(Integer)
    share: Mapped[float | None] = mapped_column(Double)
    set_by: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
    set_at: Mapped[Moment]
    replaced_at: Mapped[LaterMoment]
