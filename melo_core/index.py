"""The cluster index: finds the edit that covers a key, if any (MELO §3.3)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from melo_core.centres import Centres, distance
from melo_core.settings import Clustering

Label = tuple[int, ...]


@dataclass(frozen=True)
class Cluster:
    """A ball of keys that share an answer. The label is the answer's exact token sequence."""

    number: int
    centre: Tensor  # (d,) float32
    radius: float
    label: Label
    members: tuple[int, ...]  # points, in the order in which they joined


class Outcome(StrEnum):
    """The result of an insertion."""

    NEW = "new"  # made a cluster, away from those of other answers
    JOINED = "joined"  # became a member of a cluster with the same answer
    OVERLAPS = "overlaps"  # made a cluster that overlaps one with another answer


@dataclass(frozen=True)
class Insertion:
    """The result of inserting a point."""

    outcome: Outcome
    cluster: int
    other_point: int | None = None  # with OVERLAPS, the nearest point that has another answer
    distance: float | None = None  # to the centre of the nearest cluster
    forgotten: tuple[int, ...] = ()  # points that their cluster no longer covers (`melo` only)


@dataclass(frozen=True)
class Match:
    """The nearest cluster to a query, and whether it covers it."""

    cluster: int
    point: int  # the nearest point of that cluster
    distance: float  # from the query to the cluster's centre
    radius: float

    @property
    def covers(self) -> bool:
        return self.distance <= self.radius


class ClusterIndex:
    """Clusters over points. Exact, and on the CPU, so that a route is the same on every device.

    Of clusters at exactly the same distance, the one whose first member has the least content counts: what decides must
    be what a version's digest covers, never a row's number. Only among equal contents does the lower number count.
    """

    def __init__(
        self,
        dimension: int,
        radius: float,
        clustering: Clustering = "nearest-point",
        clusters: Iterable[Cluster] = (),
        keys: Mapping[int, Tensor] | None = None,
        contents: Mapping[int, str] | None = None,
    ) -> None:
        """Restore a stored state: clusters, and keys, (d,) float32 for every member of a cluster.

        contents: what each point stands for, in a text that is the same wherever the point is stored.
        """
        self.dimension, self.radius, self.clustering = dimension, radius, clustering
        self.clusters = {cluster.number: cluster for cluster in clusters}
        self.keys = dict(keys or {})
        self._contents = dict(contents or {})
        self._centres = Centres(dimension)
        self._home = {point: cluster.number for cluster in self.clusters.values() for point in cluster.members}
        self._next = max(self.clusters, default=0) + 1
        if self.clusters:
            self._centres.put(list(self.clusters), torch.stack([c.centre for c in self.clusters.values()]))

    def lookup(self, query_keys: Tensor) -> Match | None:
        """Route a query by the nearest of its keys (MELO eq. 5); None if the index is empty.

        query_keys: (k, d) float32. A match may lie outside the radius: see `covers`.
        """
        nearest = self._centres.nearest(query_keys)
        if nearest is None:
            return None
        away, equal = nearest
        number, i = min(equal, key=self._order)
        cluster = self.clusters[number]
        return Match(number, self._member_near(cluster, query_keys[i]), away, cluster.radius)

    def within(self, query_keys: Tensor, radius: float) -> list[tuple[Match, int]]:
        """Return clusters with a centre within `radius` of any of the query's keys, each with the key, nearest first.

        query_keys: (k, d) float32. A cluster within reach of several keys is returned once for each of them.
        """
        found = []
        for away, number, i in sorted(
            self._centres.within(query_keys, radius), key=lambda each: (each[0], *self._order(each[1:]))
        ):
            cluster = self.clusters[number]
            found.append((Match(number, self._member_near(cluster, query_keys[i]), away, cluster.radius), i))
        return found

    def cluster_of(self, point: int) -> Cluster:
        """Return the cluster of which a point is a member."""
        return self.clusters[self._home[point]]

    def content_of(self, point: int) -> str:
        """Return what a point stands for, as it was given."""
        return self._contents.get(point, "")

    def insert(self, point: int, key: Tensor, label: Label, content: str = "") -> Insertion:
        """Insert a point. key: (d,) float32."""
        self._contents[point] = content
        nearest = self._centres.nearest(key[None])
        self.keys[point] = key
        if nearest is None:
            return Insertion(Outcome.NEW, self._found(point, key, label, self.radius))
        away, equal = nearest
        number, _ = min(equal, key=self._order)
        cluster = self.clusters[number]
        if self.clustering == "nearest-point":
            new = self._found(point, key, label, self.radius)
            if away <= cluster.radius and cluster.label != label:
                return Insertion(Outcome.OVERLAPS, new, self._member_near(cluster, key), away)
            return Insertion(Outcome.NEW, new, distance=away)
        if away > cluster.radius + self.radius:
            return Insertion(Outcome.NEW, self._found(point, key, label, self.radius), distance=away)
        if cluster.label == label:
            self._put(self._joined(cluster, point))
            return Insertion(Outcome.JOINED, number, distance=away)
        other = self._member_near(cluster, key)
        kept = tuple(p for p in cluster.members if distance(self.keys[p], cluster.centre) <= away / 2)
        forgotten = tuple(p for p in cluster.members if p not in kept)
        for gone in forgotten:
            del self._home[gone]
        if kept:
            self._put(replace(cluster, radius=min(cluster.radius, away / 2), members=kept))
        else:
            self._drop(number)
        new = self._found(point, key, label, min(self.radius, away / 2))
        return Insertion(Outcome.OVERLAPS, new, other, away, forgotten)

    def remove(self, point: int) -> None:
        """Remove a point. Its cluster keeps centre and radius, so nothing changes for the other members."""
        number = self._home.pop(point, None)
        if number is not None:
            cluster = self.clusters[number]
            members = tuple(p for p in cluster.members if p != point)
            if members:
                self._put(replace(cluster, members=members))
            else:
                self._drop(number)
        self.keys.pop(point, None)
        self._contents.pop(point, None)

    def _order(self, found: tuple[int, int]) -> tuple[str, int, int]:
        """Return the order of pairs of cluster and key that are equally near."""
        number, i = found
        return self.content_of(self.clusters[number].members[0]), number, i

    def _member_near(self, cluster: Cluster, key: Tensor) -> int:
        if len(cluster.members) == 1:
            return cluster.members[0]
        return min(cluster.members, key=lambda p: distance(key, self.keys[p]))  # the first of equals, as they joined

    def _found(self, point: int, key: Tensor, label: Label, radius: float) -> int:
        number = self._next
        self._put(Cluster(number, key, radius, label, (point,)))
        return number

    def _joined(self, cluster: Cluster, point: int) -> Cluster:
        members = (*cluster.members, point)
        centre = torch.stack([self.keys[p] for p in members]).double().mean(0).float()
        radius = max([self.radius, *(distance(self.keys[p], centre) for p in members)])
        return replace(cluster, centre=centre, radius=radius, members=members)

    def _put(self, cluster: Cluster) -> None:
        """Add a cluster, or replace its state."""
        self._centres.put([cluster.number], cluster.centre[None])
        self.clusters[cluster.number] = cluster
        self._home.update((point, cluster.number) for point in cluster.members)
        self._next = max(self._next, cluster.number + 1)

    def _drop(self, number: int) -> None:
        self._centres.drop(number)
        del self.clusters[number]
