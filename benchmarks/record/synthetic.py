"""Synthetic corrections: their texts, and a few bytes in place of what a worker would train for them."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from registry.audit.actor import Actor
from registry.base.digests import MemberContent, cluster_digest, edit_digest, float32_bytes, prompt_key, sha256_hex
from registry.base.vocabulary import EditKind, PointRole, Preflight, Role
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs.claiming import ClaimedEdit
from registry.tables.collections import Collection
from registry.versions.training_result import ClusterState, NewBlock, NewPoint, TrainingResult

NAME = "bench"
SUBMITTER, APPROVER, WORKER = Actor("ada", Role.EDITOR), Actor("ben", Role.APPROVER), "bench"
RADIUS = 0.8
SHAPES = {"layer": [1, 8, 8]}
DIMENSIONS = 8
WINDOW = 2048


def write_model(folder: Path) -> str:
    """Write the files of a base model that the registry reads. Returns its name."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "llama", "max_position_embeddings": WINDOW, "hidden_size": DIMENSIONS}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "model.safetensors").write_bytes(b"no weights")
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def make_collection(session: Session, model: str, name: str = NAME) -> Collection:
    new = NewCollection(
        name=name,
        model=model,
        method={"key_encoder": "hidden", "whitened": False, "batch": 1},
        preflight=Preflight.NONE,
    )
    collection = collections.create(session, new, Actor("admin"))
    # Normally set by the first worker.
    collection.encoder_digest = sha256_hex(b"encoder")
    session.flush()
    return collection


@dataclass(frozen=True, slots=True)
class Synthetic:
    """An edit with everything that is derived from it."""

    prompt: str
    target: str
    prompt_key: str
    digest: str
    block: bytes
    block_sha256: str
    key: list[float]
    cluster_digest: str

    @classmethod
    def of(cls, prompt: str, target: str, key: list[float] | None = None, block: bytes | None = None) -> "Synthetic":
        """Make an edit; without `key` and `block`, with a few numbers and bytes in their place."""
        digest = edit_digest(
            prompt=prompt, target=target, alternatives=[], rephrases=[], unchanged=[], kind=EditKind.QA
        )
        block, key = block or block_of(digest), key or key_of(prompt)
        sha256 = sha256_hex(block)
        packed = float32_bytes(key)
        member = MemberContent(packed, digest, PointRole.PROMPT, sha256)
        cluster = cluster_digest(centre=packed, radius=RADIUS, label=label_of(target), members=[member])
        return cls(prompt, target, prompt_key(prompt, EditKind.QA), digest, block, sha256, key, cluster)


def block_of(digest: str) -> bytes:
    """Return different bytes for every edit, as many as a safetensors file of the smallest block."""
    return bytes.fromhex(digest) * 4


def key_of(prompt: str) -> list[float]:
    """Return multiples of 1/256, which float32 and a vector's text represent exactly."""
    return [byte / 256 - 0.5 for byte in bytes.fromhex(sha256_hex(prompt.encode()))[:DIMENSIONS]]


def label_of(target: str) -> list[int]:
    return list(target.encode())


def trained(edits: Sequence[ClaimedEdit], base: int, gone: Sequence[int]) -> TrainingResult:
    """Return what a worker would submit: a block, a point and a cluster for each edit.

    base: the newest version. gone: the clusters of the edits that are replaced.
    """
    made = [Synthetic.of(edit.prompt, edit.target) for edit in edits]
    return TrainingResult(
        base_version=base,
        blocks=[
            NewBlock(-edit.id, [edit.id], each.block, SHAPES, rank=1, scale=1.0, loss=0.01, iterations=10)
            for edit, each in zip(edits, made, strict=True)
        ],
        points=[
            NewPoint(-edit.id, -edit.id, edit.id, PointRole.PROMPT, each.key)
            for edit, each in zip(edits, made, strict=True)
        ],
        changed=[
            ClusterState(None, each.key, RADIUS, label_of(each.target), [-edit.id])
            for edit, each in zip(edits, made, strict=True)
        ],
        removed=list(gone),
    )


def corrections(random_: random.Random, count: int, name: str) -> list[dict[str, str]]:
    """Make records to submit, with unique prompts."""
    return [
        {"prompt": f"Who chairs organisation {name}-{number}?", "target": f"Person {random_.randrange(10**6)}"}
        for number in range(count)
    ]
