"""The files of an export besides its adapters: version.json and index.safetensors."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from registry.base.digests import edit_digest
from registry.base.errors import DigestMismatch
from registry.versions.content import EditContent, VersionContent
from worker.loader import REMEDY, as_tensor, texts_of

FORMAT = 1  # of version.json and index.safetensors


def version_json(
    content: VersionContent, adapters: Mapping[str, Mapping[str, Any]], adapter_of: Mapping[int, str]
) -> bytes:
    """Return `version.json`: everything but vectors and weights.

    adapters: what is said of each adapter, by its folder. adapter_of: the folder of each edit's adapter, if it has one.
    """
    collection, method = content.collection, content.collection.method
    hidden = method["key_encoder"] == "hidden"
    value = {
        "format": FORMAT,
        "name": f"{collection.name}@{content.number}",
        "collection": collection.name,
        "version": content.number,
        "content_digest": content.content_digest,
        "model": {"name": collection.model, "digest": collection.model_digest, "window": collection.window},
        "encoder": {
            "name": collection.model if hidden else collection.encoder,
            "digest": collection.encoder_digest,
        },
        "whitening_sha256": collection.calibration_sha256,
        "method": method,
        "adapters": [{"folder": folder, **said} for folder, said in adapters.items()],
        "edits": [_edit(edit, adapter_of.get(edit.id)) for edit in content.edits.values()],
    }
    return as_json(value)


def _edit(edit: EditContent, adapter: str | None) -> dict[str, Any]:
    return {
        "id": edit.id,
        "digest": edit.digest,
        "kind": str(edit.kind),
        "prompt": edit.prompt,
        "target": edit.target,
        "alternatives": list(edit.alternatives),
        "rephrases": list(edit.rephrases),
        "unchanged": list(edit.unchanged),
        "author": edit.author,
        "reason": edit.reason,
        "source": edit.source,
        "batch": edit.batch_id,
        "adapter": adapter,
    }


def index_tensors(content: VersionContent) -> bytes:
    """Return `index.safetensors`: n points, c clusters, keys of d dimensions.

    keys (n, d) float32; points, edits, texts, clusters (n,) int64: each point's id, its edit, which of the edit's texts
    it is (0: the prompt; k: its kth rephrase), and the row of its cluster; centres (c, d) float32; radii (c,) float64.
    """
    texts = texts_of(content)
    members = [(row, content.points[id]) for row, cluster in enumerate(content.clusters) for id in cluster.members]

    def text_number(point: int) -> int:
        edit = content.edits[texts[point].edit]
        return (edit.prompt, *edit.rephrases).index(texts[point].text)

    return save_safetensors(
        {
            "keys": torch.stack([as_tensor(point.key) for _, point in members]),
            "points": torch.tensor([point.id for _, point in members]),
            "edits": torch.tensor([point.edit_id for _, point in members]),
            "texts": torch.tensor([text_number(point.id) for _, point in members]),
            "clusters": torch.tensor([row for row, _ in members]),
            "centres": torch.stack([as_tensor(cluster.centre) for cluster in content.clusters]),
            "radii": torch.tensor([cluster.radius for cluster in content.clusters], dtype=torch.float64),
        },
        metadata={"format": str(FORMAT)},
    )


def require_texts_intact(content: VersionContent) -> None:
    """Compare each edit's texts with its digest. Raises DigestMismatch, naming the edit."""
    for edit in content.edits.values():
        found = edit_digest(
            prompt=edit.prompt,
            target=edit.target,
            alternatives=edit.alternatives,
            rephrases=edit.rephrases,
            unchanged=edit.unchanged,
            kind=edit.kind,
        )
        if found != edit.digest:
            raise DigestMismatch(f"Edit {edit.id} does not match its digest: its content was altered.", REMEDY)


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"
