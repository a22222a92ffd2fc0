"""The next version of a collection, under construction: changes are written, counted and digested as they come."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from registry.base.digests import MemberContent, cluster_digest, cluster_element, content_digest, edit_element
from registry.base.errors import InvalidResult
from registry.base.multiset import Multiset
from registry.edits import repository as edits
from registry.tables.collections import Collection
from registry.tables.edits import Edit
from registry.tables.versions import Version
from registry.versions import repository, states
from registry.versions.content import ClusterContent

NEW = -1  # the cluster_no of a cluster that has none yet


class Change:
    """The changes that make up the next version. Create it with the collection locked; its cost is that of the changes.

    Edits come first and clusters after them, because a cluster's members must belong to active edits.
    """

    def __init__(self, session: Session, collection: Collection, newest: Version | None) -> None:
        """Begin a change.

        newest: the collection's newest version, whose content is changed; None if there is none yet.
        """
        self.session = session
        self.collection = collection
        self.newest = newest
        self.number = newest.number + 1 if newest else 1
        self._out: list[str] = []  # removed elements of the content
        self._in: list[str] = []
        self._edits = 0
        self._clusters = 0
        self._moved: set[int] = set()  # points that left or joined a cluster
        if newest is not None:
            states.continue_from(session, newest)

    def activate(self, chosen: Iterable[Edit]) -> None:
        """Activate the edits from this version on."""
        digests = states.open_activations(self.session, chosen, self.number)
        self._in += map(edit_element, digests)
        self._edits += len(digests)

    def deactivate(self, edit_ids: Iterable[int]) -> None:
        """Deactivate the edits from this version on. Their points must leave their clusters, too."""
        digests = states.close_activations(self.session, edit_ids, self.number)
        self._out += map(edit_element, digests)
        self._edits -= len(digests)

    def put_clusters(self, before: Mapping[int, ClusterContent], after: Iterable[ClusterContent]) -> None:
        """Close the states `before`, given by cluster number, and open those in `after`; unchanged ones stay open.

        Raises InvalidResult if a member's edit is not active in this version.
        """
        wanted = list(after)
        same = {each.cluster_no for each in wanted if each.says_the_same_as(before.get(each.cluster_no))}
        gone = [cluster for number, cluster in before.items() if number not in same]
        wanted = [cluster for cluster in wanted if cluster.cluster_no not in same]
        closed = states.close_clusters(
            self.session, self.collection.id, [cluster.cluster_no for cluster in gone], self.number
        )
        rows = self._rows(wanted)
        states.open_clusters(self.session, rows)
        self._out += map(cluster_element, closed)
        self._in += (cluster_element(row["digest"]) for row in rows)
        self._clusters += len(rows) - len(closed)
        left = {point for cluster in gone for point in cluster.members}
        self._moved |= left ^ {point for cluster in wanted for point in cluster.members}

    def drop_points(self, point_ids: Iterable[int]) -> None:
        """Remove points from their clusters; centres and radii stay, so no other scope moves."""
        gone = set(point_ids)
        touched = repository.open_clusters_with(self.session, self.collection.id, gone)
        self.put_clusters(touched, without(touched.values(), gone))

    def make(self, **facts: Any) -> Version:
        """Write the version's row and return it.

        facts: its kind, message, reason, author, and what else its kind has.
        """
        self.session.flush()
        content = self._content()
        newest = self.newest
        touched = states.blocks_of_points(self.session, self._moved)
        before, after = (
            states.blocks_in_use(self.session, touched, state)
            for state in (newest.content_version if newest else 0, self.number)
        )
        return add_version(
            self.session,
            self.collection,
            newest,
            content_version=self.number,
            content_state=bytes(content),
            content_digest=content_digest(repository.foundation(self.session, self.collection), content),
            edit_count=(newest.edit_count if newest else 0) + self._edits,
            cluster_count=(newest.cluster_count if newest else 0) + self._clusters,
            block_count=(newest.block_count if newest else 0) + after - before,
            **facts,
        )

    def _content(self) -> Multiset:
        before = Multiset.from_bytes(self.newest.content_state) if self.newest else Multiset()
        return before.changed(out=self._out, into=self._in)

    def _rows(self, clusters: Iterable[ClusterContent]) -> list[dict[str, Any]]:
        """Return the rows of new states, with their digests."""
        clusters = list(clusters)
        points = repository.points_by_ids(self.session, {point for each in clusters for point in each.members})
        blocks = repository.blocks_by_ids(self.session, {point.block_id for point in points.values()}, with_bytes=False)
        named = {point.edit_id for point in points.values()}
        acting = states.active_edits(self.session, named, self.number)
        digests = {
            edit.id: edit.digest
            for edit in edits.by_ids(self.session, named)
            if edit.collection_id == self.collection.id and edit.id in acting
        }
        members = {
            point.id: MemberContent(point.key_bytes, digests[point.edit_id], point.role, blocks[point.block_id].sha256)
            for point in points.values()
            if point.edit_id in digests
        }
        rows = []
        for cluster in clusters:
            if strangers := [point for point in cluster.members if point not in members]:
                raise InvalidResult(
                    f"Points {strangers} cannot be in version {self.number} of {self.collection.name}: they are not "
                    "stored, or their edits are not active in it.",
                    "This is a bug in the worker: report it.",
                )
            row = {
                "collection_id": self.collection.id,
                "centre": list(cluster.centre),
                "radius": cluster.radius,
                "label": list(cluster.label),
                "members": list(cluster.members),
                "digest": cluster_digest(
                    centre=cluster.centre_bytes,
                    radius=cluster.radius,
                    label=cluster.label,
                    members=(members[point] for point in cluster.members),
                ),
                "valid": states.open_from(self.number),
            }
            if cluster.cluster_no != NEW:
                row["cluster_no"] = cluster.cluster_no
            rows.append(row)
        return rows


def add_version(session: Session, collection: Collection, newest: Version | None, **facts: Any) -> Version:
    """Write the row of the version after `newest`, with the current time.

    Under the collection's lock, times are in the order of the numbers.
    """
    moment = repository.clock(session)
    version = Version(
        collection_id=collection.id,
        number=newest.number + 1 if newest else 1,
        parent_id=newest.id if newest else None,
        created_at=max(moment, newest.created_at) if newest else moment,
        **facts,
    )
    session.add(version)
    session.flush()
    return version


def without(clusters: Iterable[ClusterContent], points: set[int]) -> list[ClusterContent]:
    """Return the clusters without the points; clusters that would be empty are omitted."""
    left = (each.with_members(point for point in each.members if point not in points) for each in clusters)
    return [cluster for cluster in left if cluster.members]
