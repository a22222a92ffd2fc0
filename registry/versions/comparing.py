"""What differs between two versions, at the cost of the difference."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.edits import repository as edits
from registry.edits.schemas import EditView
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.versions import differences, repository, service
from registry.versions.differences import Span
from registry.versions.schemas import ChangeCount, DiffView, EditCounts, ReplacedView

SHOWN = 100  # edits of a kind that a diff lists


@dataclass(frozen=True)
class _Shown:
    """What a version, or the base model, shows."""

    number: int
    content_version: int
    content_digest: str
    edits: int
    clusters: int
    blocks: int


def diff(session: Session, collection: Collection, a: int, b: int, *, limit: int = SHOWN) -> DiffView:
    """What version b has that a has not, and the reverse; at most `limit` edits of a kind are listed.

    Raises NotFound.
    """
    before, after = (_shown(session, collection, number) for number in (a, b))
    forth = before.content_version <= after.content_version
    older, newer = (before, after) if forth else (after, before)
    span = Span(collection.id, older.content_version, newer.content_version)
    gone = differences.edits_gone(session, span)
    successors = {each.successor for each in gone if each.successor is not None}
    alone = [each.edit_id for each in gone if each.successor is None]
    pairs = [(each.edit_id, each.successor) for each in gone if each.successor is not None]
    came = differences.edits_come(session, span, successors=sorted(successors), limit=limit)
    came_count = newer.edits - older.edits + len(gone) - len(successors)

    added, retired = (came, alone[:limit]) if forth else (alone[:limit], came)
    replaced = pairs[:limit] if forth else [(new, old) for old, new in pairs[:limit]]
    views = _views(session, [*added, *retired, *(edit for pair in replaced for edit in pair)])
    clusters, blocks = _clusters(session, span, older, newer), _blocks(session, span, older, newer)
    return DiffView(
        a=a,
        b=b,
        same_content=before.content_digest == after.content_digest,
        edits=EditCounts(
            added=came_count if forth else len(alone),
            retired=len(alone) if forth else came_count,
            replaced=len(pairs),
        ),
        added=[views[edit] for edit in added],
        retired=[views[edit] for edit in retired],
        replaced=[ReplacedView(old=views[old], new=views[new]) for old, new in replaced],
        clusters=clusters if forth else _reversed(clusters),
        blocks=blocks if forth else _reversed(blocks),
    )


def _shown(session: Session, collection: Collection, number: int) -> _Shown:
    if number == 0:
        return _Shown(0, 0, repository.base_digest(session, collection), 0, 0, 0)
    version: Version = service.get(session, collection, number)
    return _Shown(
        number,
        version.content_version,
        version.content_digest,
        version.edit_count,
        version.cluster_count,
        version.block_count,
    )


def _clusters(session: Session, span: Span, older: _Shown, newer: _Shown) -> ChangeCount:
    removed, changed = differences.clusters_gone(session, span)
    return ChangeCount(added=newer.clusters - older.clusters + removed, removed=removed, changed=changed)


def _blocks(session: Session, span: Span, older: _Shown, newer: _Shown) -> ChangeCount:
    removed = differences.blocks_gone(session, span)
    return ChangeCount(added=newer.blocks - older.blocks + removed, removed=removed, changed=0)


def _reversed(count: ChangeCount) -> ChangeCount:
    return ChangeCount(added=count.removed, removed=count.added, changed=count.changed)


def _views(session: Session, edit_ids: Iterable[int]) -> dict[int, EditView]:
    return {edit.id: EditView.model_validate(edit) for edit in edits.by_ids(session, edit_ids)}
