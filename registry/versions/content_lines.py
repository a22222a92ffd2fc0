"""A version's content as lines of JSON: how a serving host reads it that has no database.

The first line has the collection and how many records of each kind follow; vectors are base64 of little-endian float32.
A cluster whose centre is its first member's key, as every cluster of one point has it, says so by null.
"""

import json
import zlib
from array import array
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator
from typing import Any

from registry.base.digests import received_float32s
from registry.base.errors import DigestMismatch
from registry.base.vocabulary import EditKind, PointRole
from registry.versions.content import (
    BlockContent,
    ClusterContent,
    CollectionContent,
    EditContent,
    PointContent,
    VersionContent,
)


def lines_of(content: VersionContent) -> Iterator[bytes]:
    """Yield the content line by line. Blocks have their digests alone."""
    collection = {**vars(content.collection), "calibration": _packed(content.collection.calibration)}
    counts = {
        "edit": len(content.edits),
        "block": len(content.blocks),
        "point": len(content.points),
        "cluster": len(content.clusters),
    }
    head = {"collection": collection, "number": content.number, "content_digest": content.content_digest}
    yield _line("version", head | {"counts": counts})
    for edit in content.edits.values():
        yield _line("edit", vars(edit))
    for block in content.blocks.values():
        yield _line("block", {name: value for name, value in vars(block).items() if name != "data"})
    for point in content.points.values():
        yield _line("point", {**vars(point), "key": _packed(point.key_bytes)})
    for cluster in content.clusters:
        first = content.points[cluster.members[0]].key if cluster.members else None
        centre = None if cluster.centre == first else _packed(cluster.centre_bytes)
        yield _line("cluster", {**vars(cluster), "centre": centre})


def content_in(lines: Iterable[bytes]) -> VersionContent:
    """Read a version's content. Raises DigestMismatch where it is not whole; its digests are for its user to verify."""
    head: dict[str, Any] | None = None
    edits: dict[int, EditContent] = {}
    blocks: dict[int, BlockContent] = {}
    points: dict[int, PointContent] = {}
    clusters: list[ClusterContent] = []
    shapes: dict[str, dict[str, Any]] = {}  # mostly the same for all blocks: held once
    try:
        for line in lines:
            kind, record = json.loads(line)
            match kind:
                case "version":
                    head = record
                case "edit":
                    record |= {name: tuple(record[name]) for name in ("alternatives", "rephrases", "unchanged")}
                    edits[record["id"]] = EditContent(**record | {"kind": EditKind(record["kind"])})
                case "block":
                    record["shapes"] = shapes.setdefault(json.dumps(record["shapes"]), record["shapes"])
                    blocks[record["id"]] = BlockContent(**record, data=None)
                case "point":
                    record |= {"role": PointRole(record["role"]), "key": _vector(record["key"])}
                    points[record["id"]] = PointContent(**record)
                case "cluster":
                    clusters.append(_cluster(record, points))
        found = {"edit": len(edits), "block": len(blocks), "point": len(points), "cluster": len(clusters)}
        if head is None or head["counts"] != found:
            raise ValueError(f"{found} records of {head and head['counts']}")
        calibration = head["collection"]["calibration"]
        whole = head["collection"] | {"calibration": None if calibration is None else a2b_base64(calibration)}
        collection = CollectionContent(**whole)
        return VersionContent(
            collection, head["number"], head["content_digest"], tuple(clusters), points, blocks, edits
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DigestMismatch(
            f"The content of a version arrived incomplete or in another form: {error}.",
            "Ask again; if it stays so, run the same release of the registry and of this program.",
        ) from error


def compressed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Compress lines with gzip, in parts that are worth a write each. Level 1: most of the bytes are vectors."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for part in joined(lines):
        if packed := packer.compress(part):
            yield packed
    yield packer.flush()


def joined(lines: Iterable[bytes], size: int = 1 << 16) -> Iterator[bytes]:
    """Join lines into parts of about `size` bytes: a write for each line would cost more than the line."""
    part = bytearray()
    for line in lines:
        part += line
        if len(part) >= size:
            yield bytes(part)
            part.clear()
    yield bytes(part)


def _line(kind: str, record: dict[str, Any]) -> bytes:
    return json.dumps([kind, record], separators=(",", ":")).encode() + b"\n"


def _packed(data: bytes | None) -> str | None:
    return None if data is None else b2a_base64(data, newline=False).decode()


def _vector(packed: str) -> "array[float]":
    return received_float32s(a2b_base64(packed))


def _cluster(record: dict[str, Any], points: dict[int, PointContent]) -> ClusterContent:
    centre = record["centre"]
    vector = points[record["members"][0]].key if centre is None else _vector(centre)
    lists = {"centre": vector, "label": tuple(record["label"]), "members": tuple(record["members"])}
    return ClusterContent(**record | lists)
