"""Reverts what one version changed: edits it added are deactivated, edits it removed become active again as they were.

Nothing is trained. A cluster that the version changed and no later version touched becomes what it was before. If a
later version touched it, it keeps its centre and radius, the added edits' points leave it, and every returning point
gets its own cluster around its key, with its earlier radius and label: so it covers what it was trained for, and no
other edit's scope moves. With the method's default, nearest-point, each point always has its own cluster, and both
cases are the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.base.errors import InvalidRequest, WrongState
from registry.edits import repository as edits
from registry.tables.collections import Collection
from registry.tables.edits import Edit
from registry.tables.versions import Version
from registry.versions import differences, repository, states
from registry.versions.change import NEW, Change
from registry.versions.content import ClusterContent, PointContent
from registry.versions.differences import Span

_NAMED = 10  # edits named in a refusal


@dataclass(frozen=True)
class Reversal:
    """The change of a version: `span` from the older to the newer state, whichever of the two was its parent's."""

    version: Version
    parent_state: int
    added: list[int]  # edits active in it and not in its parent
    taken_out: list[Edit]  # the reverse

    @property
    def span(self) -> Span:
        return _span(self.version, self.parent_state)


def plan(session: Session, collection: Collection, version: Version, newest: Version) -> Reversal:
    """Return what is to be undone.

    Raises WrongState, naming the edits, if a later version changed one of them again, and InvalidRequest if the version
    changed nothing.
    """
    parent = repository.by_number(session, collection.id, version.number - 1)
    parent_state = parent.content_version if parent else 0
    span = _span(version, parent_state)
    gone = [each.edit_id for each in differences.edits_gone(session, span)]
    come = differences.edits_come(session, span, successors=[])
    added, taken_out = (come, gone) if parent_state <= version.content_version else (gone, come)
    if not added and not taken_out:
        raise InvalidRequest(
            f"Version {version.number} of {collection.name} changed no edit, so there is nothing to revert.",
            f"`melo version list {collection.name}` shows what each version did.",
        )
    reversal = Reversal(version, parent_state, added, edits.by_ids(session, taken_out))
    if obstacles := _obstacles(session, collection, reversal, newest):
        named = "; ".join(obstacles[:_NAMED])
        more = f"; and {len(obstacles) - _NAMED} more" if len(obstacles) > _NAMED else ""
        raise WrongState(
            f"Version {version.number} of {collection.name} cannot be reverted, since its edits were changed again "
            f"later: {named}{more}.",
            "`melo edit log EDIT` shows an edit's history. Retire or correct the edits one by one, or roll back.",
        )
    return reversal


def carry_out(session: Session, change: Change, reversal: Reversal) -> None:
    """Write the reversal into the next version."""
    change.deactivate(reversal.added)
    change.activate(reversal.taken_out)
    before, after = _clusters(session, change, reversal)
    change.put_clusters(before, after)


def _span(version: Version, parent_state: int) -> Span:
    return Span(version.collection_id, *sorted((parent_state, version.content_version)))


def _obstacles(session: Session, collection: Collection, reversal: Reversal, newest: Version) -> list[str]:
    back = {edit.id: edit for edit in reversal.taken_out}
    acting = states.active_edits(session, [*reversal.added, *back], newest.content_version)
    found = [f"edit {edit} no longer acts" for edit in reversal.added if edit not in acting]
    found += [f"edit {edit} acts again already" for edit in back if edit in acting]
    found += [f"the content of edit {edit.id} was erased" for edit in back.values() if edit.erased_at is not None]
    by_prompt = {edit.prompt_key: edit.id for edit in back.values()}
    leaving = {*reversal.added, *back}
    for rival in edits.standing_by_key(session, collection.id, by_prompt, pending=()):
        if rival.id not in leaving:
            found.append(f"edit {rival.id} acts for the prompt of edit {by_prompt[rival.prompt_key]}")
    return found


def _clusters(
    session: Session, change: Change, reversal: Reversal
) -> tuple[dict[int, ClusterContent], list[ClusterContent]]:
    """Return the open states to close, by cluster number, and those that replace them."""
    leaving = repository.points_of_edits(session, reversal.added)
    coming = repository.points_of_edits(session, [edit.id for edit in reversal.taken_out])
    numbers = differences.clusters_between(session, reversal.span)
    then = repository.clusters_by_no(session, numbers, reversal.parent_state)
    made = repository.clusters_by_no(session, numbers, reversal.version.content_version)
    here = change.collection.id
    now = repository.open_clusters(session, here, numbers) | repository.open_clusters_with(session, here, leaving)
    untouched = {number for number in numbers if now.get(number) == made.get(number)}

    # Clusters that stay keep their points first; then those restored; then points that come back alone.
    stay = [cluster for number, cluster in now.items() if number not in untouched]
    placed = {point for cluster in stay for point in cluster.members} - leaving
    wanted = {point for number in untouched & then.keys() for point in then[number].members}
    alone = {
        point: then[number] for number in then.keys() - untouched for point in then[number].members if point in coming
    }
    points = repository.points_by_ids(session, wanted | alone.keys())
    acting = states.active_edits(session, {point.edit_id for point in points.values()}, change.number)
    fit = {point.id for point in points.values() if point.edit_id in acting}
    elsewhere = repository.open_clusters_with(session, here, fit)
    fit -= placed.union(*(cluster.members for number, cluster in elsewhere.items() if number not in now))

    after = [cluster.with_members(point for point in cluster.members if point not in leaving) for cluster in stay]
    after += [
        then[number].with_members(point for point in then[number].members if point in fit)
        for number in sorted(untouched & then.keys())
    ]
    after += (_alone(points[point], was) for point, was in sorted(alone.items()) if point in fit - wanted)
    return now, _with_members(after)


def _alone(point: PointContent, was: ClusterContent) -> ClusterContent:
    return ClusterContent(NEW, point.key, was.radius, was.label, (point.id,), digest="")


def _with_members(clusters: Iterable[ClusterContent]) -> list[ClusterContent]:
    return [cluster for cluster in clusters if cluster.members]
