"""Queries that open and close the states of clusters and activations, and bring older ones back.

Every row's range speaks of versions that are no rollbacks; the open ranges are those of the newest of these, the
line's head. Whatever opens or closes a state holds the collection's lock.
"""

from collections.abc import Collection as Group
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from registry.tables.edits import Edit
from registry.tables.orm import in_parts
from registry.tables.versions import Activation, Cluster, Version


def open_from(number: int) -> Range[int]:
    """The versions from `number` on."""
    return Range(number, None)


def line_head(session: Session, collection_id: int) -> int:
    """The newest version that is no rollback: the one whose content the open ranges are. 0: there is none."""
    query = select(Version.number).where(
        Version.collection_id == collection_id, Version.content_version == Version.number
    )
    return session.scalar(query.order_by(Version.number.desc()).limit(1)) or 0


def open_clusters(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """New states of clusters; rows without cluster_no are new clusters."""
    for known in (True, False):
        part = [row for row in rows if ("cluster_no" in row) is known]
        if part:
            session.execute(insert(Cluster), part)


def close_clusters(session: Session, collection_id: int, cluster_nos: Iterable[int], number: int) -> list[str]:
    """The clusters' open states end before version `number`. Returns their digests."""
    digests: list[str] = []
    for part in in_parts(sorted(set(cluster_nos))):
        digests += session.scalars(
            update(Cluster)
            .where(Cluster.collection_id == collection_id, Cluster.cluster_no.in_(part), func.upper_inf(Cluster.valid))
            .values(valid=func.int4range(func.lower(Cluster.valid), number))
            .returning(Cluster.digest)
            .execution_options(synchronize_session=False)
        )
    return digests


def open_activations(session: Session, edits: Iterable[Edit], number: int) -> list[str]:
    """The edits act from version `number` on. Returns their digests."""
    chosen = list(edits)
    if chosen:
        session.execute(
            insert(Activation),
            [
                {
                    "collection_id": edit.collection_id,
                    "edit_id": edit.id,
                    "prompt_key": edit.prompt_key,
                    "valid": open_from(number),
                }
                for edit in chosen
            ],
        )
    return [edit.digest for edit in chosen]


def close_activations(session: Session, edit_ids: Iterable[int], number: int) -> list[str]:
    """The edits stop acting with version `number`. Returns their digests."""
    digests: list[str] = []
    for part in in_parts(sorted(set(edit_ids))):
        digests += session.scalars(
            update(Activation)
            .where(Activation.edit_id == Edit.id, Activation.edit_id.in_(part), func.upper_inf(Activation.valid))
            .values(valid=func.int4range(func.lower(Activation.valid), number))
            .returning(Edit.digest)
            .execution_options(synchronize_session=False)
        )
    return digests


def active_edits(session: Session, edit_ids: Iterable[int], state: int) -> set[int]:
    """Those of the edits that act in a state."""
    found: set[int] = set()
    for part in in_parts(sorted(set(edit_ids))):
        query = select(Activation.edit_id).where(Activation.edit_id.in_(part), Activation.valid.contains(state))
        found.update(session.scalars(query))
    return found


def blocks_in_use(session: Session, block_ids: Group[int], state: int) -> int:
    """How many of the blocks a cluster of the state leads to."""
    found: set[int] = set()
    for part in in_parts(sorted(block_ids)):
        found.update(session.scalars(text(_BLOCKS_IN_USE), {"blocks": list(part), "state": state}))
    return len(found)


def blocks_of_points(session: Session, point_ids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for part in in_parts(sorted(set(point_ids)), size=100_000):
        found.update(session.scalars(text(_BLOCKS_OF_POINTS), {"ids": list(part)}))
    return found


_BLOCKS_OF_POINTS = "SELECT DISTINCT block_id FROM points WHERE id = ANY(CAST(:ids AS bigint[]))"

_BLOCKS_IN_USE = """
SELECT DISTINCT points.block_id FROM points
WHERE points.block_id = ANY(CAST(:blocks AS bigint[])) AND EXISTS (
    SELECT 1 FROM clusters
    WHERE clusters.members @> ARRAY[points.id] AND clusters.valid @> CAST(:state AS integer))
"""

# A row of state h that began after s, or of state s that ended by h, is all that can differ between the two. A state
# that both have, in two rows, is left alone. Closing comes first: the partial unique indexes allow one open state of
# a cluster, and one active edit for a prompt.
_CLOSE_CLUSTERS = """
UPDATE clusters SET valid = int4range(lower(valid), :number)
WHERE collection_id = :collection_id AND lower(valid) > :state AND lower(valid) <= :head AND upper_inf(valid)
  AND NOT EXISTS (
    SELECT 1 FROM clusters AS older
    WHERE older.cluster_no = clusters.cluster_no AND older.digest = clusters.digest
      AND older.valid @> CAST(:state AS integer))
"""

_OPEN_CLUSTERS = """
INSERT INTO clusters (collection_id, cluster_no, centre, radius, label, members, digest, valid)
SELECT collection_id, cluster_no, centre, radius, label, members, digest, int4range(:number, NULL)
FROM clusters
WHERE collection_id = :collection_id AND upper(valid) > :state AND upper(valid) <= :head AND lower(valid) <= :state
  AND NOT EXISTS (
    SELECT 1 FROM clusters AS still WHERE still.cluster_no = clusters.cluster_no AND upper_inf(still.valid))
ORDER BY cluster_no
"""

_CLOSE_ACTIVATIONS = """
UPDATE activations SET valid = int4range(lower(valid), :number)
WHERE collection_id = :collection_id AND lower(valid) > :state AND lower(valid) <= :head AND upper_inf(valid)
  AND NOT EXISTS (
    SELECT 1 FROM activations AS older
    WHERE older.edit_id = activations.edit_id AND older.valid @> CAST(:state AS integer))
"""

_OPEN_ACTIVATIONS = """
INSERT INTO activations (collection_id, edit_id, prompt_key, valid)
SELECT collection_id, edit_id, prompt_key, int4range(:number, NULL)
FROM activations
WHERE collection_id = :collection_id AND upper(valid) > :state AND upper(valid) <= :head AND lower(valid) <= :state
  AND NOT EXISTS (
    SELECT 1 FROM activations AS still WHERE still.edit_id = activations.edit_id AND upper_inf(still.valid))
ORDER BY edit_id
"""

_LIMIT_TIME = text("SELECT set_config('statement_timeout', :limit, true)")  # until the transaction ends


def continue_from(session: Session, newest: Version) -> None:
    """Make the open ranges those of the newest version's content, so that the next one can change it.

    Nothing is to be done but after a rollback. The ranges then begin and end at the rollback's number, from which
    on what it restored has acted. This costs the difference between the rollback and what came before it, which may
    be most of a large collection: no statement of it is cut off for taking long.
    """
    head = line_head(session, newest.collection_id)
    if newest.content_version == head:
        return
    facts = {
        "collection_id": newest.collection_id,
        "state": newest.content_version,
        "head": head,
        "number": newest.number,
    }
    limit = session.scalar(text("SELECT current_setting('statement_timeout')"))
    session.execute(_LIMIT_TIME, {"limit": "0"})
    for statement in (_CLOSE_CLUSTERS, _OPEN_CLUSTERS, _CLOSE_ACTIVATIONS, _OPEN_ACTIVATIONS):
        session.execute(text(statement), facts)
    session.execute(_LIMIT_TIME, {"limit": limit})
