"""Queries on what differs between two states of a collection.

A state's rows are those whose range contains it. Only a row that begins or ends between two states can be in one of
them and not in the other, so a difference costs what was written in between, whatever the collection holds. Where
the line runs through both, little of the older state is gone and much of the newer came: what is gone is read, and
how much came follows from the versions' counts.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from registry.tables.versions import Version


@dataclass(frozen=True)
class Span:
    """Two states of a collection, the older one first; 0: the base model."""

    collection_id: int
    older: int
    newer: int

    @property
    def facts(self) -> dict[str, Any]:
        return {"collection_id": self.collection_id, "older": self.older, "newer": self.newer}


@dataclass(frozen=True)
class Gone:
    """An edit that acts in the older state and not in the newer one."""

    edit_id: int
    successor: int | None  # the edit of the newer state that replaced it, or has its prompt


# Rows of the older state that ended by the newer one, and of the newer one that began after the older.
_ENDED = """
{row}.collection_id = :collection_id AND upper({row}.valid) > :older AND upper({row}.valid) <= :newer
  AND lower({row}.valid) <= :older
"""
_BEGUN = """
{row}.collection_id = :collection_id AND lower({row}.valid) > :older AND lower({row}.valid) <= :newer
  AND {row}.valid @> CAST(:newer AS integer)
"""
_ACTS = "EXISTS (SELECT 1 FROM activations WHERE edit_id = {edit} AND valid @> CAST(:{state} AS integer))"


def _came(edit: str) -> str:
    return f"{_ACTS.format(edit=edit, state='newer')} AND NOT {_ACTS.format(edit=edit, state='older')}"


_GONE = f"""
SELECT gone.edit_id, coalesce(named.id, same_prompt.id) AS successor
FROM activations AS gone
LEFT JOIN LATERAL (
    SELECT id FROM edits WHERE replaces = gone.edit_id AND {_came("edits.id")} ORDER BY id LIMIT 1
) AS named ON true
LEFT JOIN LATERAL (
    SELECT id FROM edits
    WHERE named.id IS NULL AND collection_id = :collection_id AND prompt_key = gone.prompt_key
      AND id <> gone.edit_id AND {_came("edits.id")}
    LIMIT 1
) AS same_prompt ON true
WHERE {_ENDED.format(row="gone")}
  AND NOT {_ACTS.format(edit="gone.edit_id", state="newer")}
ORDER BY upper(gone.valid), gone.edit_id
"""

_CAME = f"""
SELECT came.edit_id FROM activations AS came
WHERE {_BEGUN.format(row="came")}
  AND NOT {_ACTS.format(edit="came.edit_id", state="older")}
  AND NOT came.edit_id = ANY(CAST(:successors AS bigint[]))
ORDER BY lower(came.valid), came.edit_id
LIMIT :limit
"""

_CLUSTERS_GONE = f"""
SELECT count(*) FILTER (WHERE later.id IS NULL) AS removed,
       count(*) FILTER (WHERE later.digest <> gone.digest) AS changed
FROM clusters AS gone
LEFT JOIN clusters AS later ON later.cluster_no = gone.cluster_no AND later.valid @> CAST(:newer AS integer)
WHERE {_ENDED.format(row="gone")}
"""

_BLOCKS_GONE = f"""
SELECT count(*) FROM (
    SELECT DISTINCT points.block_id
    FROM clusters AS gone CROSS JOIN unnest(gone.members) AS member JOIN points ON points.id = member
    WHERE {_ENDED.format(row="gone")}
) AS touched
WHERE NOT EXISTS (
    SELECT 1 FROM points JOIN clusters ON clusters.members @> ARRAY[points.id]
    WHERE points.block_id = touched.block_id AND clusters.valid @> CAST(:newer AS integer))
"""

_CLUSTERS_BETWEEN = f"""
SELECT DISTINCT cluster_no FROM clusters AS gone WHERE {_ENDED.format(row="gone")}
UNION
SELECT cluster_no FROM clusters AS came WHERE {_BEGUN.format(row="came")}
"""


def edits_gone(session: Session, span: Span) -> list[Gone]:
    """In the order in which they went."""
    return [Gone(row.edit_id, row.successor) for row in session.execute(text(_GONE), span.facts)]


def edits_come(session: Session, span: Span, *, successors: list[int], limit: int | None = None) -> list[int]:
    """Ids of edits that act in the newer state and not in the older, but the successors, in order. None: all."""
    facts = {**span.facts, "successors": successors, "limit": limit}
    return list(session.scalars(text(_CAME), facts))


def clusters_gone(session: Session, span: Span) -> tuple[int, int]:
    """How many clusters of the older state the newer has not, and how many it has in another state."""
    row = session.execute(text(_CLUSTERS_GONE), span.facts).one()
    return row.removed, row.changed


def blocks_gone(session: Session, span: Span) -> int:
    """How many blocks the older state leads to and the newer does not."""
    return int(session.execute(text(_BLOCKS_GONE), span.facts).scalar_one())


def clusters_between(session: Session, span: Span) -> set[int]:
    """Numbers of the clusters that are not the same in both states; a few that are may be among them."""
    return set(session.scalars(text(_CLUSTERS_BETWEEN), span.facts))


# A version switches an edit where it acts in the version's state and not in the parent's, or the reverse. Only
# versions that an activation begins or ends with, and rollbacks, can do that.
_SWITCHES = """
WITH acts AS (SELECT range_agg(valid) AS states FROM activations WHERE edit_id = :edit_id),
bounds AS (
    SELECT unnest(ARRAY[lower(valid), upper(valid)]) AS number FROM activations WHERE edit_id = :edit_id),
candidates AS (
    SELECT versions.id FROM versions JOIN bounds USING (number) WHERE collection_id = :collection_id
    UNION
    SELECT id FROM versions
    WHERE collection_id = :collection_id AND kind = 'rollback' AND number > (SELECT min(number) FROM bounds))
SELECT versions.id, (SELECT states FROM acts) @> versions.content_version AS acts
FROM candidates JOIN versions USING (id) LEFT JOIN versions AS parent ON parent.id = versions.parent_id
WHERE ((SELECT states FROM acts) @> versions.content_version)
      IS DISTINCT FROM ((SELECT states FROM acts) @> coalesce(parent.content_version, 0))
ORDER BY versions.number
"""


def switches_of_edit(session: Session, collection_id: int, edit_id: int) -> list[tuple[Version, bool]]:
    """The versions with which an edit began to act (True) or ceased to, in order."""
    facts = {"collection_id": collection_id, "edit_id": edit_id}
    rows = {row.id: row.acts for row in session.execute(text(_SWITCHES), facts)}
    found = session.scalars(select(Version).where(Version.id.in_(rows)).order_by(Version.number))
    return [(version, rows[version.id]) for version in found]
