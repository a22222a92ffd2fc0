"""The changes that a job proposes for its collection: blocks, points, and the clusters changed by them."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from melo_core.encoder import KeyEncoder
from melo_core.index import Cluster, Insertion
from melo_core.scope import Scope, same_question
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier
from registry.base.vocabulary import PointRole
from registry.jobs.claiming import ClaimedEdit
from registry.versions.content import VersionContent
from registry.versions.training_result import ClusterState, NewBlock, NewPoint, Overlap, TrainingResult
from worker.loader import as_tensor, index_of, point_content, scope_in
from worker.training import TrainedEdit


@dataclass(frozen=True)
class CollectionScope:
    """The settings, encoder and verifier that tell a collection's edits apart."""

    settings: MethodSettings
    encoder: KeyEncoder
    encoder_digest: str
    verifier: Verifier | None
    new_calibration: bytes | None  # set only by the collection's first job

    def of(self, content: VersionContent) -> Scope:
        """Build the scope of a version, which decides which edit covers a query."""
        return scope_in(content, self.settings, self.encoder, self.verifier)

    @property
    def reach(self) -> float:
        """The distance within which an edit may answer what is asked of another."""
        return self.settings.candidate_radius if self.verifier else self.settings.radius

    def same_question(self, one: str, other: str) -> bool:
        """Tell whether one edit would answer the other's question if no nearer edit did."""
        return same_question(self.settings, self.verifier, one, other)

    def keys_of(self, edits: Sequence[ClaimedEdit]) -> dict[int, list[tuple[PointRole, Tensor]]]:
        """Return, by edit id, the key (d,) of its prompt, then those of its rephrases."""
        return {
            edit.id: [
                (PointRole.PROMPT, self.encoder.key(edit.prompt, edit.kind)),
                *((PointRole.REPHRASE, self.encoder.key(rephrase, edit.kind)) for rephrase in edit.rephrases),
            ]
            for edit in edits
        }


def candidate(
    content: VersionContent,
    scope: CollectionScope,
    trained: Sequence[TrainedEdit],
    keys: Mapping[int, Sequence[tuple[PointRole, Tensor]]],
) -> TrainingResult:
    """Insert the trained edits into the index of a version, after removing the points of the edits that they replace.

    content: with the stored points of edits that were trained and stored before. keys: of the other edits.
    """
    index = index_of(content, scope.settings, scope.encoder.dimension)
    before = dict(index.clusters)
    replaced = {t.edit.replaces for t in trained}
    for point in content.points.values():
        if point.edit_id in replaced:
            index.remove(point.id)
    edit_of = {point.id: point.edit_id for point in content.points.values()}
    groups = dict.fromkeys(t.group for t in trained if not t.is_stored)
    blocks = {group: -1 - n for n, group in enumerate(groups)}  # their numbers
    points, overlaps = list[NewPoint](), list[Overlap]()
    for t in trained:
        texts = (t.edit.prompt, *t.edit.rephrases)
        for stored, text in zip(t.points, texts, strict=False):  # none, or one for each text
            found = index.insert(stored.id, as_tensor(stored.key), t.label, point_content(t.edit.digest, text))
            overlaps.extend(_overlaps(found, t.edit.id, edit_of))
        if t.is_stored:
            continue
        for (role, key), text in zip(keys[t.edit.id], texts, strict=True):
            number = -1 - len(points)  # until the record assigns one
            edit_of[number] = t.edit.id
            points.append(NewPoint(number, blocks[t.group], t.edit.id, role, tuple(key.tolist())))
            found = index.insert(number, key, t.label, point_content(t.edit.digest, text))
            overlaps.extend(_overlaps(found, t.edit.id, edit_of))
    return TrainingResult(
        base_version=content.number,
        blocks=_new_blocks([t for t in trained if not t.is_stored], blocks),
        points=points,
        # A changed cluster is a new object; an identical object is unchanged.
        changed=[_state(c, before) for c in index.clusters.values() if c is not before.get(c.number)],
        removed=sorted(before.keys() - index.clusters.keys()),
        calibration=scope.new_calibration,
        encoder_digest=scope.encoder_digest,
        overlaps=_met(scope, content, trained, overlaps),
    )


def _met(
    scope: CollectionScope, content: VersionContent, trained: Sequence[TrainedEdit], overlaps: Iterable[Overlap]
) -> list[Overlap]:
    """Return the overlaps that a query can encounter.

    These are overlaps of edits whose prompts the verifier takes for one question, and of edits that lost a point.
    Without a verifier, all of them.
    """
    prompts = {edit.id: edit.prompt for edit in content.edits.values()} | {t.edit.id: t.edit.prompt for t in trained}
    same: dict[tuple[int, int], bool] = {}

    def meets(overlap: Overlap) -> bool:
        pair = overlap.edit_id, overlap.other_edit_id
        if pair not in same:
            same[pair] = scope.same_question(*(prompts[number] for number in pair))
        return same[pair]

    return [overlap for overlap in overlaps if overlap.forgotten or meets(overlap)]


def _overlaps(result: Insertion, edit_id: int, edit_of: Mapping[int, int]) -> list[Overlap]:
    """Return the edits whose scope overlaps the inserted point's, and those that lost a point to it."""
    if result.other_point is None or result.distance is None:
        return []
    met = dict.fromkeys(edit_of[point] for point in (result.other_point, *result.forgotten))
    lost = {edit_of[point] for point in result.forgotten}
    return [Overlap(edit_id, other, other in lost, result.distance) for other in met]


def _new_blocks(trained: Sequence[TrainedEdit], numbers: Mapping[int, int]) -> list[NewBlock]:
    """Return one block for all edits that share it."""
    edit_ids: dict[int, list[int]] = {}
    for t in trained:
        edit_ids.setdefault(t.group, []).append(t.edit.id)
    first = {t.group: t for t in reversed(trained)}
    return [_new_block(first[group], numbers[group], ids) for group, ids in edit_ids.items()]


def _new_block(t: TrainedEdit, number: int, edit_ids: Sequence[int]) -> NewBlock:
    block = t.trained.block
    return NewBlock(
        number=number,
        edit_ids=edit_ids,
        data=t.data,
        shapes={name: [list(a.shape), list(b.shape)] for name, (a, b) in block.weights.items()},
        rank=block.rank,
        scale=block.scale,
        loss=t.trained.loss,
        iterations=t.trained.iterations,
    )


def _state(cluster: Cluster, known: Container[int]) -> ClusterState:
    return ClusterState(
        cluster_no=cluster.number if cluster.number in known else None,
        centre=tuple(cluster.centre.tolist()),
        radius=cluster.radius,
        label=cluster.label,
        members=tuple(cluster.members),
    )
