"""What a worker hands in when it has trained a batch: new blocks and points, and what becomes of the index.

New points and blocks have no ids yet: they carry negative numbers of the worker's choice, by which points refer to
blocks and clusters to points. The registry replaces them by ids when it stores them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.base.vocabulary import PointRole


@dataclass(frozen=True)
class NewBlock:
    number: int  # below 0
    edit_ids: Sequence[int]  # the edits that it was trained for
    data: bytes  # safetensors
    shapes: dict[str, Any]
    rank: int
    scale: float
    loss: float  # at which its training stopped
    iterations: int


@dataclass(frozen=True)
class NewPoint:
    number: int  # below 0
    block: int  # a NewBlock's number
    edit_id: int
    role: PointRole
    key: Sequence[float]


@dataclass(frozen=True)
class ClusterState:
    """A cluster as it is in the new version."""

    cluster_no: int | None  # None: a new cluster
    centre: Sequence[float]
    radius: float
    label: Sequence[int]  # the target's token ids
    members: Sequence[int]  # ids of stored points, numbers of new ones; in order


@dataclass(frozen=True)
class Overlap:
    """Two edits whose scopes met, with different targets: both radii shrank (MELO's conflict)."""

    edit_id: int  # the new one
    other_edit_id: int  # the one that was there
    forgotten: bool  # a point of `other_edit_id` fell out of its cluster
    distance: float  # between the new key and the cluster's centre


@dataclass(frozen=True)
class TrainingResult:
    base_version: int  # the version that the index was built on; 0: none
    blocks: Sequence[NewBlock]
    points: Sequence[NewPoint]
    changed: Sequence[ClusterState]  # the clusters that are new, or not as they were
    removed: Sequence[int] = ()  # cluster_nos of which nothing is left
    calibration: bytes | None = None  # given by the first job of a collection only
    encoder_digest: str | None = None
    overlaps: Sequence[Overlap] = ()
