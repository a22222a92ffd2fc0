"""Queries on versions and what they consist of."""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, LargeBinary, Select, Text, cast, func, insert, literal, select, text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from registry.base.digests import (
    Foundation,
    StoredBlock,
    StoredPoint,
    content_digest,
    float32s,
    received_vector,
    stored_digest,
)
from registry.base.errors import Erased
from registry.base.multiset import Multiset
from registry.base.vocabulary import EditKind, PointRole
from registry.collections import repository as collections
from registry.tables.collections import Collection
from registry.tables.edits import Edit
from registry.tables.jobs import Job
from registry.tables.orm import in_parts, listed
from registry.tables.versions import Activation, Alias, Block, BlockEdit, Cluster, Point, Version
from registry.versions.content import (
    BlockContent,
    ClusterContent,
    CollectionContent,
    EditContent,
    PointContent,
    VersionContent,
)
from registry.versions.erased import require_whole


def in_state(table: type[Cluster] | type[Activation], collection_id: int, state: int) -> ColumnElement[bool]:
    """Return the condition for a collection's rows that hold in a state, in the form of the GiST index."""
    of_collection = func.int8range(table.collection_id, table.collection_id, "[]")
    wanted = func.int8range(collection_id, collection_id, "[]")
    return (of_collection == wanted) & table.valid.contains(state)


def latest(session: Session, collection_id: int) -> Version | None:
    query = select(Version).where(Version.collection_id == collection_id).order_by(Version.number.desc()).limit(1)
    return session.scalars(query).one_or_none()


def by_number(session: Session, collection_id: int, number: int) -> Version | None:
    query = select(Version).where(Version.collection_id == collection_id, Version.number == number)
    return session.scalars(query).one_or_none()


def page(session: Session, collection_id: int, *, before: int | None, limit: int) -> Sequence[Version]:
    """Return versions, newest first."""
    query = select(Version).where(Version.collection_id == collection_id)
    if before is not None:
        query = query.where(Version.number < before)
    return session.scalars(query.order_by(Version.number.desc()).limit(limit)).all()


def version_at(session: Session, collection_id: int, moment: datetime) -> Version | None:
    """Return the version that was newest at a given time."""
    query = select(Version).where(Version.collection_id == collection_id, Version.created_at <= moment)
    return session.scalars(query.order_by(Version.created_at.desc(), Version.number.desc()).limit(1)).one_or_none()


def version_content(session: Session, collection_id: int, number: int, *, block_bytes: bool = True) -> VersionContent:
    """Return the content of a version, in a few queries; without `block_bytes`, blocks have only digests.

    Raises NoResultFound if there is no such version, and Erased if something in it was erased.
    """
    collection = collection_content(session, collection_id)
    version = by_number(session, collection_id, number) if number else None
    if version is None and number:
        raise NoResultFound(f"collection {collection.name} has no version {number}")
    state = version.content_version if version else 0
    require_whole(session, collection_id, number, state)
    clusters = clusters_in(session, collection_id, state)
    points = points_by_ids(session, (point for cluster in clusters for point in cluster.members))
    blocks = blocks_by_ids(session, {point.block_id for point in points.values()}, with_bytes=block_bytes)
    edits = edits_in(session, collection_id, state)
    digest = version.content_digest if version else collection.digest_of((), ())
    return VersionContent(collection, number, digest, tuple(clusters), points, blocks, edits)


def collection_content(session: Session, collection_id: int) -> CollectionContent:
    collection = collections.by_id(session, collection_id)
    calibration = collections.calibration(session, collection_id)
    return CollectionContent(
        id=collection.id,
        name=collection.name,
        model=collection.model,
        model_digest=collection.model_digest,
        model_files=dict(collection.model_files),
        window=collection.window,
        method=dict(collection.method),
        encoder=collection.encoder,
        encoder_digest=collection.encoder_digest,
        calibration=calibration.data if calibration else None,
        calibration_sha256=calibration.sha256 if calibration else None,
    )


def clusters_in(session: Session, collection_id: int, state: int) -> list[ClusterContent]:
    return _clusters(session.execute(_cluster_columns().where(in_state(Cluster, collection_id, state))))


def clusters_by_no(session: Session, cluster_nos: Iterable[int], state: int) -> dict[int, ClusterContent]:
    """Return the states of clusters, by number, in a state of their collection."""
    found: dict[int, ClusterContent] = {}
    for part in in_parts(sorted(set(cluster_nos))):
        query = _cluster_columns().where(Cluster.cluster_no.in_(part), Cluster.valid.contains(state))
        found |= {cluster.cluster_no: cluster for cluster in _clusters(session.execute(query))}
    return found


def open_clusters(session: Session, collection_id: int, cluster_nos: Iterable[int]) -> dict[int, ClusterContent]:
    """Return the open states of clusters, by the clusters' numbers."""
    found: dict[int, ClusterContent] = {}
    for part in in_parts(sorted(set(cluster_nos))):
        query = _cluster_columns().where(
            Cluster.collection_id == collection_id, Cluster.cluster_no.in_(part), func.upper_inf(Cluster.valid)
        )
        found |= {cluster.cluster_no: cluster for cluster in _clusters(session.execute(query))}
    return found


# One point at a time: for many at once, the planner assumes that nearly every cluster has one of them.
_OPEN_WITH = text("""
SELECT DISTINCT held.id
FROM unnest(CAST(:points AS bigint[])) AS point CROSS JOIN LATERAL (
    SELECT id FROM clusters
    WHERE members @> ARRAY[point] AND collection_id = :collection_id AND upper_inf(valid)) AS held
""")


def open_clusters_with(session: Session, collection_id: int, point_ids: Iterable[int]) -> dict[int, ClusterContent]:
    """Return the open states of clusters that have one of the points, by the clusters' numbers."""
    found: dict[int, ClusterContent] = {}
    for part in in_parts(sorted(set(point_ids))):
        ids = session.scalars(_OPEN_WITH, {"points": list(part), "collection_id": collection_id}).all()
        query = _cluster_columns().where(Cluster.id.in_(ids))
        found |= {cluster.cluster_no: cluster for cluster in _clusters(session.execute(query))}
    return found


def _cluster_columns() -> Select[Any]:
    centre = sent(Cluster.centre).label("centre")
    columns: tuple[Any, ...] = (Cluster.cluster_no, centre, Cluster.radius)
    return select(*columns, Cluster.label, Cluster.members, Cluster.digest).order_by(Cluster.cluster_no)


def sent(vector: Any) -> ColumnElement[bytes]:
    """Return a column of vectors as bytes, for received_vector: parsing decimals would take longer than the rest."""
    return func.vector_send(vector, type_=LargeBinary)


def _clusters(rows: Iterable[Any]) -> list[ClusterContent]:
    """Return the clusters of rows. Raises Erased if an erasure removed a state's centre and label."""
    return [
        ClusterContent(row.cluster_no, _centre(row), row.radius, tuple(row.label), tuple(row.members), row.digest)
        for row in rows
    ]


def _centre(row: Any) -> "array[float]":
    if row.centre is None:
        raise Erased(
            f"Cluster {row.cluster_no} held an edit whose content was erased: it cannot be as it was then.",
            "Submit the other edits again where they are needed.",
        )
    return received_vector(row.centre)


def points_by_ids(session: Session, point_ids: Iterable[int]) -> dict[int, PointContent]:
    found = {}
    columns = (Point.id, Point.edit_id, Point.block_id, Point.role, sent(Point.key).label("key"))
    for part in in_parts(sorted(set(point_ids))):
        for row in session.execute(select(*columns).where(Point.id.in_(listed(part)))):
            key = received_vector(row.key) if row.key is not None else float32s(())  # erased
            found[row.id] = PointContent(row.id, row.edit_id, row.block_id, PointRole(row.role), key)
    return found


def blocks_by_ids(session: Session, block_ids: Iterable[int], *, with_bytes: bool) -> dict[int, BlockContent]:
    found = {}
    data = Block.data if with_bytes else literal(None)
    shapes: dict[str, dict[str, Any]] = {}  # mostly the same for all: parsed and held once
    columns = (Block.id, Block.sha256, Block.rank, Block.scale, cast(Block.shapes, Text).label("shapes"))
    for part in in_parts(sorted(set(block_ids))):
        for row in session.execute(select(*columns, data.label("data")).where(Block.id.in_(listed(part)))):
            if row.shapes not in shapes:
                shapes[row.shapes] = json.loads(row.shapes)
            found[row.id] = BlockContent(row.id, row.sha256, row.rank, row.scale, shapes[row.shapes], row.data)
    return found


def edits_in(session: Session, collection_id: int, state: int) -> dict[int, EditContent]:
    """Return the active edits of a state, as rows: objects of the ORM would take as long as all the rest."""
    columns = [getattr(Edit, field.name) for field in fields(EditContent)]
    query = select(*columns).join(Activation, Activation.edit_id == Edit.id)
    return edit_contents(session.execute(query.where(in_state(Activation, collection_id, state)).order_by(Edit.id)))


def edit_contents(edits: Iterable[Any]) -> dict[int, EditContent]:
    return {
        edit.id: EditContent(
            id=edit.id,
            batch_id=edit.batch_id,
            prompt=edit.prompt,
            target=edit.target,
            alternatives=tuple(edit.alternatives),
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


def points_of_edits(session: Session, edit_ids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for part in in_parts(sorted(set(edit_ids))):
        found.update(session.scalars(select(Point.id).where(Point.edit_id.in_(listed(part)))))
    return found


def foundation(session: Session, collection: Collection) -> Foundation:
    sha256 = collections.calibration_sha256(session, collection.id)
    return Foundation(collection.model_digest, dict(collection.method), collection.encoder_digest, sha256)


def base_digest(session: Session, collection: Collection) -> str:
    """Return the content digest of version 0, the base model, in which nothing is active."""
    return content_digest(foundation(session, collection), Multiset())


def insert_returning_ids(
    session: Session, table: type[Block] | type[Point], rows: Sequence[dict[str, Any]]
) -> list[int]:
    """Insert rows, and return their ids in the order of the rows."""
    if not rows:
        return []
    return list(session.scalars(insert(table).returning(table.id, sort_by_parameter_order=True), rows))


def insert_block_edits(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(BlockEdit), rows)


def clock(session: Session) -> datetime:
    """Return the database's current time; a transaction's own time is that of its start."""
    return session.scalars(select(func.clock_timestamp(type_=DateTime(timezone=True)))).one()


def current_alias(session: Session, collection_id: int, name: str) -> Alias | None:
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.name == name)
    return session.scalars(query.where(Alias.replaced_at.is_(None))).one_or_none()


def alias_at(session: Session, collection_id: int, name: str, moment: datetime) -> Alias | None:
    """Return where an alias pointed at a given time."""
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.name == name, Alias.set_at <= moment)
    return session.scalars(query.order_by(Alias.set_at.desc(), Alias.id.desc()).limit(1)).one_or_none()


def current_aliases(session: Session, collection_id: int, *, after: str | None, limit: int) -> Sequence[Alias]:
    """Return the current aliases, by name."""
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.replaced_at.is_(None))
    if after is not None:
        query = query.where(Alias.name > after)
    return session.scalars(query.order_by(Alias.name).limit(limit)).all()


def alias_history(
    session: Session, collection_id: int, name: str, *, before: datetime | None, limit: int
) -> Sequence[Alias]:
    """Return where an alias pointed, newest first.

    The times are distinct: they are taken from the clock under the collection's lock.
    """
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.name == name)
    if before is not None:
        query = query.where(Alias.set_at < before)
    return session.scalars(query.order_by(Alias.set_at.desc()).limit(limit)).all()


def first_alias(session: Session, collection_id: int, name: str) -> Alias | None:
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.name == name)
    return session.scalars(query.order_by(Alias.set_at).limit(1)).one_or_none()


def blocks_of_job(
    session: Session, job_id: int
) -> list[tuple[BlockContent, float, int, tuple[int, ...], tuple[PointContent, ...]]]:
    """Return the blocks that a job stored, with their bytes: loss, iterations, edits, and points leading to them."""
    rows = session.execute(select(Block.id, Block.loss, Block.iterations).where(Block.job_id == job_id)).all()
    ids = [row.id for row in rows]
    blocks = blocks_by_ids(session, ids, with_bytes=True)
    edits: dict[int, list[int]] = {block_id: [] for block_id in ids}
    points: dict[int, list[PointContent]] = {block_id: [] for block_id in ids}
    for part in in_parts(ids):
        query = select(BlockEdit.block_id, BlockEdit.edit_id).where(BlockEdit.block_id.in_(part))
        for block_id, edit_id in session.execute(query.order_by(BlockEdit.edit_id)):
            edits[block_id].append(edit_id)
        point_ids = session.scalars(select(Point.id).where(Point.block_id.in_(part)))
        for _, point in sorted(points_by_ids(session, point_ids).items()):
            points[point.block_id].append(point)
    return [(blocks[row.id], row.loss, row.iterations, tuple(edits[row.id]), tuple(points[row.id])) for row in rows]


def block_of_edit(session: Session, edit_id: int) -> tuple[int, float, int, dict[str, Any], int] | None:
    """Return an edit's newest stored block: its id, loss and iterations, and its job's settings and seed."""
    query = (
        select(Block.id, Block.loss, Block.iterations, Job.settings, Job.seed)
        .join(BlockEdit, BlockEdit.block_id == Block.id)
        .join(Job, Job.id == Block.job_id)
        .where(BlockEdit.edit_id == edit_id, Block.erased_at.is_(None))
        .order_by(Block.id.desc())
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row.id, row.loss, row.iterations, dict(row.settings), row.seed)


def stored_by(session: Session, job_id: int) -> str:
    """Return the digest over the blocks that a job stored, with the edits and points of each."""
    blocks = session.execute(select(*_STORED_COLUMNS).where(Block.job_id == job_id).order_by(Block.id)).all()
    edits: dict[int, list[int]] = {row.id: [] for row in blocks}
    points: dict[int, list[StoredPoint]] = {row.id: [] for row in blocks}
    for part in in_parts(list(edits)):
        query = select(BlockEdit.block_id, BlockEdit.edit_id).where(BlockEdit.block_id.in_(listed(part)))
        for block_id, edit_id in session.execute(query.order_by(BlockEdit.edit_id)):
            edits[block_id].append(edit_id)
        leading = select(Point.block_id, Point.id, Point.edit_id, Point.role, Point.key_sha256)
        for row in session.execute(leading.where(Point.block_id.in_(listed(part))).order_by(Point.id)):
            points[row.block_id].append(StoredPoint(row.id, row.edit_id, row.role, row.key_sha256))
    return stored_digest(StoredBlock(*row, edits[row.id], points[row.id]) for row in blocks)


_STORED_COLUMNS = (
    Block.id, Block.sha256, Block.shapes, Block.rank, Block.scale, Block.loss, Block.iterations,
)  # fmt: skip
