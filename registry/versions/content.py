"""The content of a version as values: everything that a loader needs to rebuild the edited model."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from registry.base.digests import (
    Foundation,
    MemberContent,
    cluster_digest,
    cluster_element,
    content_digest,
    edit_element,
    float32_bytes,
)
from registry.base.errors import DigestMismatch
from registry.base.multiset import Multiset
from registry.base.vocabulary import EditKind, PointRole


@dataclass(frozen=True)
class CollectionContent:
    id: int
    name: str
    model: str
    model_digest: str
    model_files: dict[str, str]  # SHA-256 by name
    window: int
    method: dict[str, Any]
    encoder: str
    encoder_digest: str | None
    calibration: bytes | None  # safetensors: the whitening statistics
    calibration_sha256: str | None

    def digest_of(self, clusters: Iterable[str], edits: Iterable[str]) -> str:
        """Return the content digest of a version, from scratch.

        clusters, edits: the digests of those active in it.
        """
        made_of = Foundation(self.model_digest, self.method, self.encoder_digest, self.calibration_sha256)
        return content_digest(made_of, Multiset.of([*map(cluster_element, clusters), *map(edit_element, edits)]))


@dataclass(frozen=True)
class EditContent:
    id: int
    batch_id: int
    prompt: str
    target: str
    alternatives: tuple[str, ...]
    rephrases: tuple[str, ...]
    unchanged: tuple[str, ...]
    kind: EditKind
    author: str
    reason: str
    source: str
    digest: str


@dataclass(frozen=True)
class BlockContent:
    id: int
    sha256: str
    rank: int
    scale: float
    shapes: dict[str, Any]
    data: bytes | None  # safetensors; None if only digests were requested


@dataclass(frozen=True)
class PointContent:
    id: int
    edit_id: int
    block_id: int
    role: PointRole
    key: "array[float]"  # float32

    @property
    def key_bytes(self) -> bytes:
        return float32_bytes(self.key)


@dataclass(frozen=True)
class ClusterContent:
    cluster_no: int
    centre: "array[float]"  # float32
    radius: float
    label: tuple[int, ...]  # token ids
    members: tuple[int, ...]  # point ids, in order
    digest: str

    @property
    def centre_bytes(self) -> bytes:
        return float32_bytes(self.centre)

    def with_members(self, members: Iterable[int]) -> "ClusterContent":
        return replace(self, members=tuple(members))

    def says_the_same_as(self, other: "ClusterContent | None") -> bool:
        """Return whether both are equal except for the digest, which may not be computed yet."""
        return other is not None and replace(self, digest=other.digest) == other


@dataclass(frozen=True)
class VersionContent:
    """A whole version. Number 0 is the base model: nothing is active."""

    collection: CollectionContent
    number: int
    content_digest: str  # as recorded; computed for number 0
    clusters: tuple[ClusterContent, ...]  # by cluster_no
    points: dict[int, PointContent]  # those that are members of a cluster
    blocks: dict[int, BlockContent]  # those to which a point leads
    edits: dict[int, EditContent]  # the active ones

    def digest_of(self, cluster: ClusterContent) -> str:
        """Return the cluster's digest, from its content; raises KeyError if a member is not among the points."""
        members = []
        for point_id in cluster.members:
            point = self.points[point_id]
            members.append(
                MemberContent(
                    key=point.key_bytes,
                    edit_digest=self.edits[point.edit_id].digest,
                    role=point.role,
                    block_sha256=self.blocks[point.block_id].sha256,
                )
            )
        return cluster_digest(centre=cluster.centre_bytes, radius=cluster.radius, label=cluster.label, members=members)

    def require_intact(self) -> None:
        """Recompute the digests of clusters and of the whole, and compare. Raises DigestMismatch.

        The bytes of blocks and calibration are for their reader to verify (melo_core, or audit.verification): here
        their recorded SHA-256 enters.
        """
        where = f"version {self.number} of {self.collection.name}"
        digests = []
        for cluster in self.clusters:
            try:
                digest = self.digest_of(cluster)
            except KeyError as missing:
                raise DigestMismatch(
                    f"Cluster {cluster.cluster_no} of {where} refers to record {missing}, which is not there.",
                    "Run `melo audit verify`, and restore the database from a backup.",
                ) from None
            if digest != cluster.digest:
                raise DigestMismatch(
                    f"Cluster {cluster.cluster_no} of {where} does not match its digest.",
                    "Run `melo audit verify`, and restore the database from a backup.",
                )
            digests.append(digest)
        found = self.collection.digest_of(digests, (edit.digest for edit in self.edits.values()))
        if found != self.content_digest:
            raise DigestMismatch(
                f"The content of {where} has the digest {found}, but {self.content_digest} was recorded.",
                "Run `melo audit verify`, and restore the database from a backup.",
            )
