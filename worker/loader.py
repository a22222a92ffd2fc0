"""The loader: the edited model of any registry version, rebuilt from the record and verified before it answers."""

from array import array
from dataclasses import dataclass

import torch
from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor

from melo_core.block import Block
from melo_core.edited_model import Answer, Approved, EditedModel
from melo_core.encoder import KeyEncoder
from melo_core.errors import CorruptBlock
from melo_core.index import Cluster, ClusterIndex
from melo_core.scope import Scope, ScopedText
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier
from registry.base.digests import sha256_hex
from registry.base.errors import DigestMismatch
from registry.versions.content import EditContent, VersionContent
from registry.versions.repository import version_content
from worker.model_cache import ModelCache

REMEDY = "Run `melo audit verify` to see all that is wrong, and restore the database from a backup."


@dataclass(frozen=True)
class LoadedVersion:
    """A version that can answer."""

    content: VersionContent
    model: EditedModel

    def edit_behind(self, answer: Answer) -> EditContent | None:
        """Return the edit whose block gave the answer; None: the base model answered."""
        if answer.route.block is None or answer.route.match is None or answer.said_to == "base":
            return None
        return self.content.edits[self.content.points[answer.route.match.point].edit_id]


def load_version(
    sessions: sessionmaker[Session], model_cache: ModelCache, collection_id: int, number: int
) -> LoadedVersion:
    """Rebuild a version; 0 is the base model.

    Raises DigestMismatch, naming the record, where a stored value was altered, and UnknownModel where the model's or
    encoder's files are not the recorded ones.
    """
    with sessions() as session:
        content = version_content(session, collection_id, number)
    blocks = {block.id: read_block(block.id, block.data, block.sha256) for block in content.blocks.values()}
    content.require_intact()
    collection = content.collection
    settings = MethodSettings.from_json(collection.method)
    base = model_cache.base(collection.model, collection.model_digest, collection.model_files)
    scope = None
    if content.clusters:
        scope = scope_in(
            content, settings, encoder_of(model_cache, content, settings), model_cache.verifier_of(settings, base.kind)
        )
    block_of = {point.id: point.block_id for point in content.points.values()}
    return LoadedVersion(content, EditedModel(base, settings, scope, blocks, block_of, approved_of(content)))


def scope_in(
    content: VersionContent, settings: MethodSettings, encoder: KeyEncoder, verifier: Verifier | None
) -> Scope:
    """Build the scope that decides which edit of a version covers a query."""
    index = index_of(content, settings, encoder.dimension)
    return Scope(encoder, index, settings, texts_of(content), verifier)


def approved_of(content: VersionContent) -> dict[int, Approved]:
    """Return the approved answer of each edit's block in a version."""
    return {id: Approved(edit.prompt, edit.target, edit.kind, edit.alternatives) for id, edit in content.edits.items()}


def texts_of(content: VersionContent) -> dict[int, ScopedText]:
    """Return the text behind each point.

    An edit's points are those of its prompt and its rephrases, in the order of their ids. Where some were forgotten, as
    happens with the paper's clustering, the prompt stands for all.
    """
    points: dict[int, list[int]] = {}
    for point in sorted(content.points.values(), key=lambda point: (point.id < 0, abs(point.id))):
        if point.edit_id in content.edits:
            points.setdefault(point.edit_id, []).append(point.id)
    texts = {}
    for edit_id, ids in points.items():
        edit = content.edits[edit_id]
        asked = (edit.prompt, *edit.rephrases)
        whole = len(ids) == len(asked)
        for i, point_id in enumerate(ids):
            text = asked[i] if whole else edit.prompt
            texts[point_id] = ScopedText(edit_id, text, edit.unchanged, i > 0, edit.kind)
    return texts


def index_of(content: VersionContent, settings: MethodSettings, dimension: int) -> ClusterIndex:
    """Build the version's index."""
    clusters = [Cluster(c.cluster_no, as_tensor(c.centre), c.radius, c.label, c.members) for c in content.clusters]
    keys = {point.id: as_tensor(point.key) for point in content.points.values()}
    contents = {
        point: point_content(content.edits[text.edit].digest, text.text) for point, text in texts_of(content).items()
    }
    return ClusterIndex(dimension, settings.radius, settings.clustering, clusters, keys, contents)


def point_content(edit_digest: str, text: str) -> str:
    """Return what decides between points at the same distance: content that the version's digest covers."""
    return f"{edit_digest} {text}"


def as_tensor(vector: "array[float]") -> Tensor:
    """Return a (d,) float32 tensor that shares the vector's memory, which nobody writes to."""
    return torch.frombuffer(vector, dtype=torch.float32)


def read_block(block_id: int, data: bytes | None, recorded: str) -> Block:
    found = sha256_hex(data or b"")
    if data is None or found != recorded:
        raise DigestMismatch(
            f"Block {block_id} is not what was written: its bytes have the digest {found}, "
            f"but {recorded} was recorded. No version with this block can be served.",
            REMEDY,
        )
    try:
        return Block.from_bytes(data)
    except CorruptBlock as error:
        raise DigestMismatch(f"Block {block_id} cannot be read: {error}.", REMEDY) from error


def encoder_of(model_cache: ModelCache, content: VersionContent, settings: MethodSettings) -> KeyEncoder:
    collection = content.collection
    calibration = collection.calibration
    if (None if calibration is None else sha256_hex(calibration)) != collection.calibration_sha256:
        raise DigestMismatch(f"The calibration of collection {collection.name} is not what was written.", REMEDY)
    encoder, _ = model_cache.encoder_of(collection, settings, calibration)
    return encoder
