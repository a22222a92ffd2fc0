"""Writes a version from the record into a folder, digests compared while it is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from cli.errors import CommandError
from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of
from registry.base.digests import sha256_hex
from registry.base.errors import DigestMismatch
from registry.base.vocabulary import EditKind
from registry.versions.content import BlockContent, VersionContent
from registry.versions.repository import blocks_by_ids, version_content
from worker.export.adapter import config_of, last_token_of_questions, tensors_of
from worker.export.description import as_json, index_tensors, require_texts_intact, version_json
from worker.export.folder import SUMS, NewFolder, new_folder
from worker.export.readme import ANSWER, program, readme
from worker.loader import REMEDY, read_block
from worker.model_cache import ModelCache

BLOCKS_AT_ONCE = 256  # in memory
SHORT = 16  # hex digits of a block's digest, where they tell all blocks apart
LEAVE_OUT = "Leave --activated out."


@dataclass(frozen=True)
class Written:
    """What an export holds."""

    content_digest: str
    edits: int
    adapters: int
    activated: int  # of the adapters
    ordinary: tuple[str, ...]  # folders of adapters that could not be activated LoRA, though that was wanted
    points: int
    clusters: int
    files: int
    bytes: int
    sha256sums: str  # SHA-256 of SHA256SUMS: it stands for the whole folder

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def write_version(
    sessions: sessionmaker[Session],
    model_cache: ModelCache,
    collection_id: int,
    number: int,
    target: Path,
    activated: bool = False,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write a version; the same one always gives the same bytes. watch: called with adapters written and total.

    Raises CommandError where there is nothing to export, the target is not empty, or activated LoRA cannot express
    the version; DigestMismatch where the record was altered; UnknownModel where the model's files are not the recorded
    ones.
    """
    with sessions() as session:
        content = version_content(session, collection_id, number, block_bytes=False)
    collection, name = content.collection, f"{content.collection.name}@{content.number or 'base'}"
    if not content.clusters:
        raise CommandError("Nothing to export", f"{name} is the base model: no edit acts in it.")
    content.require_intact()
    require_texts_intact(content)
    if (collection.calibration and sha256_hex(collection.calibration)) != collection.calibration_sha256:
        raise DigestMismatch(f"The calibration of collection {collection.name} is not what was written.", REMEDY)
    settings = MethodSettings.from_json(collection.method)
    base = model_cache.without_weights(collection.model, collection.model_digest, collection.model_files)
    invocation = _invocation(base, settings, content) if activated else None
    folders, edits_of = _folders(content), _edits_of(content)
    with new_folder(target) as folder:
        adapters = _write_adapters(sessions, folder, content, base, settings, folders, edits_of, invocation, watch)
        ordinary = tuple(path for path, said in adapters.items() if activated and not said["activated"])
        acting = [path for path, said in adapters.items() if said["activated"]]
        adapter_of = {id: folders[block] for block, ids in edits_of.items() for id in ids}
        folder.write("version.json", version_json(content, adapters, adapter_of))
        folder.write("index.safetensors", index_tensors(content))
        if collection.calibration:
            folder.write("whitening.safetensors", collection.calibration)
        if base.kind is Kind.CAUSAL:
            folder.write(ANSWER, program())
        folder.write("README.md", readme(content, base.kind, len(adapters), acting))
    return Written(
        content.content_digest,
        len(content.edits),
        len(adapters),
        len(acting),
        ordinary,
        len(content.points),
        len(content.clusters),
        len(folder.sums),
        folder.size,
        folder.sums[SUMS],
    )


def _write_adapters(
    sessions: sessionmaker[Session],
    folder: NewFolder,
    content: VersionContent,
    base: BaseModel,
    settings: MethodSettings,
    folders: Mapping[int, str],
    edits_of: Mapping[int, Sequence[int]],
    invocation: int | None,
    watch: Callable[[int, int], None],
) -> dict[str, dict[str, Any]]:
    """Write each block's adapter; return what version.json says of them, by folder."""
    modules = structure_of(base.model, settings).modules
    said: dict[str, dict[str, Any]] = {}
    for done, (stored, block) in enumerate(_blocks(sessions, content), 1):
        asked = all(content.edits[id].kind is EditKind.QA for id in edits_of[stored.id])
        token = invocation if asked else None
        path = folders[stored.id]
        folder.write(f"{path}/adapter_model.safetensors", tensors_of(block))
        config = config_of(block, content.collection.model, base.kind, modules, token)
        folder.write(f"{path}/adapter_config.json", as_json(config))
        edits = [*said.get(path, {}).get("edits", ()), *edits_of[stored.id]]  # of equal blocks there is one adapter
        said[path] = {
            "digest": stored.sha256,
            "rank": block.rank,
            "scale": block.scale,
            "activated": token is not None,
            "edits": sorted(edits),
        }
        watch(done, len(content.blocks))
    return said


def _blocks(sessions: sessionmaker[Session], content: VersionContent) -> Iterator[tuple[BlockContent, Block]]:
    """Yield the version's blocks in the order of their ids, read and verified some at a time."""
    ids = sorted(content.blocks)
    for start in range(0, len(ids), BLOCKS_AT_ONCE):
        with sessions() as session:
            found = blocks_by_ids(session, ids[start : start + BLOCKS_AT_ONCE], with_bytes=True)
        for id, stored in sorted(found.items()):
            yield stored, read_block(id, stored.data, content.blocks[id].sha256)


def _folders(content: VersionContent) -> dict[int, str]:
    """Return the folder of each block's adapter, by its id."""
    digests = {block.sha256 for block in content.blocks.values()}
    length = SHORT if len({digest[:SHORT] for digest in digests}) == len(digests) else None
    return {block.id: f"adapters/{block.sha256[:length]}" for block in content.blocks.values()}


def _edits_of(content: VersionContent) -> dict[int, list[int]]:
    """Return the edits whose points lead to each block, by its id."""
    found: dict[int, set[int]] = {}
    for point in content.points.values():
        found.setdefault(point.block_id, set()).add(point.edit_id)
    return {block: sorted(edits) for block, edits in found.items()}


def _invocation(base: BaseModel, settings: MethodSettings, content: VersionContent) -> int:
    """Return the token from which activated LoRA acts. Raises CommandError where it cannot do what the blocks do."""
    if base.kind is not Kind.CAUSAL or settings.positions == "all":
        raise CommandError(
            "Activated LoRA cannot express this version",
            f"The blocks of {content.collection.name} act on all positions, as ordinary LoRA does.",
            LEAVE_OUT,
        )
    token = last_token_of_questions(base)
    if token is None or all(edit.kind is not EditKind.QA for edit in content.edits.values()):
        why = (
            f"{content.collection.model} has no chat template that ends each question with the same token"
            if token is None
            else "all its edits are completions, whose prompts have no fixed last token"
        )
        raise CommandError(
            "Activated LoRA cannot express this version",
            f"The blocks act from the last token of the prompt on, and activated LoRA from a fixed token on: {why}.",
            f"{LEAVE_OUT} answer.py lets ordinary LoRA act from the last token on.",
        )
    return token
