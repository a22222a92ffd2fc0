"""Queries on versions and what they consist of."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Select, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from registry.collections import repository as collections
from registry.collections.models import Collection
from registry.digests import Foundation, content_digest, float32_bytes, floats_of
from registry.edits.models import Edit
from registry.edits.repository import by_ids as edits_by_ids
from registry.orm import in_parts
from registry.versions.content import (
    BlockContent,
    ClusterContent,
    CollectionContent,
    EditContent,
    PointContent,
    VersionContent,
)
from registry.versions.models import Activation, Alias, Block, BlockEdit, Cluster, Point, Version
from registry.vocabulary import EditKind, PointRole


def open_from(number: int) -> Range[int]:
    """The versions from `number` on."""
    return Range(number, None)


def in_version(table: type[Cluster] | type[Activation], collection_id: int, number: int) -> ColumnElement[bool]:
    """Rows of a collection whose state holds in a version; written as the GiST index has it."""
    of_collection = func.int8range(table.collection_id, table.collection_id, "[]")
    wanted = func.int8range(collection_id, collection_id, "[]")
    return (of_collection == wanted) & table.valid.contains(number)


def latest(session: Session, collection_id: int) -> Version | None:
    query = select(Version).where(Version.collection_id == collection_id).order_by(Version.number.desc()).limit(1)
    return session.scalars(query).one_or_none()


def by_number(session: Session, collection_id: int, number: int) -> Version | None:
    query = select(Version).where(Version.collection_id == collection_id, Version.number == number)
    return session.scalars(query).one_or_none()


def page(session: Session, collection_id: int, *, before: int | None, limit: int) -> Sequence[Version]:
    """Newest first."""
    query = select(Version).where(Version.collection_id == collection_id)
    if before is not None:
        query = query.where(Version.number < before)
    return session.scalars(query.order_by(Version.number.desc()).limit(limit)).all()


def version_content(session: Session, collection_id: int, number: int, *, block_bytes: bool = True) -> VersionContent:
    """Everything a version consists of, in six queries; without `block_bytes`, blocks come as digests only."""
    collection = collection_content(session, collection_id)
    clusters = clusters_in(session, collection_id, number)
    points = points_by_ids(session, (point for cluster in clusters for point in cluster.members))
    blocks = blocks_by_ids(session, {point.block_id for point in points.values()}, with_bytes=block_bytes)
    edits = edit_contents(edits_by_ids(session, active_edit_ids(session, collection_id, number)))
    version = by_number(session, collection_id, number) if number else None
    digest = version.content_digest if version else content_digest(collection.foundation, (), ())
    return VersionContent(collection, number, digest, tuple(clusters), points, blocks, edits)


def collection_content(session: Session, collection_id: int) -> CollectionContent:
    collection = collections.by_id(session, collection_id)
    calibration = collections.calibration(session, collection_id)
    return CollectionContent(
        id=collection.id,
        name=collection.name,
        model=collection.model,
        model_digest=collection.model_digest,
        window=collection.window,
        method=dict(collection.method),
        encoder=collection.encoder,
        encoder_digest=collection.encoder_digest,
        calibration=calibration.data if calibration else None,
        calibration_sha256=calibration.sha256 if calibration else None,
    )


def clusters_in(session: Session, collection_id: int, number: int) -> list[ClusterContent]:
    rows = session.execute(_cluster_columns().where(in_version(Cluster, collection_id, number)))
    return _clusters(rows)


def open_clusters_with(session: Session, collection_id: int, point_ids: Sequence[int]) -> list[ClusterContent]:
    """Clusters of the newest version that have one of the points."""
    query = _cluster_columns().where(
        Cluster.collection_id == collection_id,
        Cluster.members.overlap(list(point_ids)),
        func.upper_inf(Cluster.valid),
    )
    return _clusters(session.execute(query))


def _cluster_columns() -> Select[Any]:
    columns = (Cluster.cluster_no, Cluster.centre, Cluster.radius, Cluster.label, Cluster.members, Cluster.digest)
    return select(*columns).order_by(Cluster.cluster_no)


def _clusters(rows: Iterable[Any]) -> list[ClusterContent]:
    return [
        ClusterContent(
            row.cluster_no, _float32(row.centre), row.radius, tuple(row.label), tuple(row.members), row.digest
        )
        for row in rows
    ]


def _float32(numbers: Sequence[float]) -> tuple[float, ...]:
    """A vector's exact values: they arrive as the shortest decimals that tell float32 values apart."""
    return tuple(floats_of(float32_bytes(numbers)))


def points_by_ids(session: Session, point_ids: Iterable[int]) -> dict[int, PointContent]:
    found = {}
    columns = (Point.id, Point.edit_id, Point.block_id, Point.role, Point.key)
    for part in in_parts(sorted(set(point_ids))):
        for row in session.execute(select(*columns).where(Point.id.in_(part))):
            found[row.id] = PointContent(row.id, row.edit_id, row.block_id, PointRole(row.role), _float32(row.key))
    return found


def blocks_by_ids(session: Session, block_ids: Iterable[int], *, with_bytes: bool) -> dict[int, BlockContent]:
    found = {}
    data = Block.data if with_bytes else literal(None)
    columns = (Block.id, Block.sha256, Block.rank, Block.scale, Block.shapes, data.label("data"))
    for part in in_parts(sorted(set(block_ids))):
        for row in session.execute(select(*columns).where(Block.id.in_(part))):
            found[row.id] = BlockContent(row.id, row.sha256, row.rank, row.scale, dict(row.shapes), row.data)
    return found


def edit_contents(edits: Iterable[Edit]) -> dict[int, EditContent]:
    return {
        edit.id: EditContent(
            id=edit.id,
            batch_id=edit.batch_id,
            prompt=edit.prompt,
            target=edit.target,
            rephrases=tuple(edit.rephrases),
            unchanged=tuple(edit.unchanged),
            kind=EditKind(edit.kind),
            author=edit.author,
            reason=edit.reason,
            source=edit.source,
            digest=edit.digest,
        )
        for edit in edits
    }


def active_edit_ids(session: Session, collection_id: int, number: int) -> Sequence[int]:
    query = select(Activation.edit_id).where(in_version(Activation, collection_id, number))
    return session.scalars(query.order_by(Activation.edit_id)).all()


def points_of_edits(session: Session, edit_ids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for part in in_parts(sorted(set(edit_ids))):
        found.update(session.scalars(select(Point.id).where(Point.edit_id.in_(part))))
    return found


def foundation(session: Session, collection: Collection) -> Foundation:
    sha256 = collections.calibration_sha256(session, collection.id)
    return Foundation(collection.model_digest, dict(collection.method), collection.encoder_digest, sha256)


def digest_in(session: Session, collection: Collection, number: int) -> str:
    """The content digest of what is recorded as valid in a version, in constant memory."""
    return content_digest(
        foundation(session, collection),
        _streamed(session, select(Cluster.digest).where(in_version(Cluster, collection.id, number)), Cluster.digest),
        _streamed(
            session,
            select(Edit.digest).join(Activation, Activation.edit_id == Edit.id).where(
                in_version(Activation, collection.id, number)
            ),
            Edit.digest,
        ),
    )  # fmt: skip


def _streamed(session: Session, query: Select[str], column: Any) -> Iterator[str]:
    # Byte order, as Python sorts: a database's collation may differ.
    ordered = query.order_by(column.collate("C")).execution_options(yield_per=10_000)
    yield from session.scalars(ordered)


def count_active(session: Session, collection_id: int, number: int) -> int:
    query = select(func.count()).select_from(Activation).where(in_version(Activation, collection_id, number))
    return session.scalar(query) or 0


def insert_returning_ids(
    session: Session, table: type[Block] | type[Point], rows: Sequence[dict[str, Any]]
) -> list[int]:
    """Ids in the order of the rows."""
    if not rows:
        return []
    return list(session.scalars(insert(table).returning(table.id, sort_by_parameter_order=True), rows))


def insert_block_edits(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(BlockEdit), rows)


def open_clusters(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """New states of clusters; rows without cluster_no are new clusters."""
    for known in (True, False):
        part = [row for row in rows if ("cluster_no" in row) is known]
        if part:
            session.execute(insert(Cluster), part)


def close_clusters(session: Session, collection_id: int, cluster_nos: Iterable[int], number: int) -> None:
    """The clusters' present states end before version `number`."""
    for part in in_parts(sorted(cluster_nos)):
        session.execute(
            update(Cluster)
            .where(Cluster.collection_id == collection_id, Cluster.cluster_no.in_(part), func.upper_inf(Cluster.valid))
            .values(valid=func.int4range(func.lower(Cluster.valid), number))
            .execution_options(synchronize_session=False)
        )


def open_activations(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(Activation), rows)


def close_activations(session: Session, edit_ids: Iterable[int], number: int) -> None:
    for part in in_parts(sorted(edit_ids)):
        session.execute(
            update(Activation)
            .where(Activation.edit_id.in_(part), func.upper_inf(Activation.valid))
            .values(valid=func.int4range(func.lower(Activation.valid), number))
            .execution_options(synchronize_session=False)
        )


def clock(session: Session) -> datetime:
    """The database's time now; a transaction's own stands still at its beginning."""
    return session.scalars(select(func.clock_timestamp(type_=DateTime(timezone=True)))).one()


def current_alias(session: Session, collection_id: int, name: str) -> Alias | None:
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.name == name)
    return session.scalars(query.where(Alias.replaced_at.is_(None))).one_or_none()


def alias_history(session: Session, collection_id: int, name: str) -> Sequence[Alias]:
    """Newest first."""
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.name == name)
    return session.scalars(query.order_by(Alias.set_at.desc(), Alias.id.desc())).all()


def cluster_digests_in(session: Session, collection_id: int, number: int) -> dict[int, str]:
    query = select(Cluster.cluster_no, Cluster.digest).where(in_version(Cluster, collection_id, number))
    return {row.cluster_no: row.digest for row in session.execute(query)}


def block_ids_in(session: Session, collection_id: int, number: int) -> set[int]:
    """The blocks that a point of a version's clusters leads to."""
    members = select(func.unnest(Cluster.members)).where(in_version(Cluster, collection_id, number))
    return set(session.scalars(select(Point.block_id).where(Point.id.in_(members)).distinct()))
