"""Digests: one canonical form per kind of record, and SHA-256 over it.

Numbers with a fraction enter by their bits (float32 bytes, float.hex()), never as decimal text, so that a digest does
not depend on what printed the number. Row ids, version numbers and messages are not content: a rollback's digest equals
that of the version it restores.
"""

import json
import sys
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from registry.base.multiset import Multiset

# Each is part of what is hashed, and is raised when the canonical form changes: no two forms share a digest.
FORMAT = 2  # of edits and clusters
CONTENT_FORMAT = 2  # of a version's whole content
EVENT_FORMAT = 1  # of audit events


def sha256_hex(content: bytes) -> str:
    return sha256(content).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces, in UTF-8; floats are refused: their decimal form is not canonical."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError(f"the float {value!r} has no canonical form: give float.hex() or a rounded text")
    if isinstance(value, dict):
        for part in value.values():
            _refuse_floats(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _refuse_floats(part)


def files_digest(sha256s: Mapping[str, str]) -> str:
    """Return one digest over files: the names in order, each with the hash of its content (in hex)."""
    whole = sha256()
    for name in sorted(sha256s):
        whole.update(f"{name}\n".encode() + bytes.fromhex(sha256s[name]))
    return whole.hexdigest()


def float32_bytes(numbers: Iterable[float]) -> bytes:
    """Return the numbers as little-endian float32, which is how vectors enter a digest."""
    packed = float32s(numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def received_float32s(sent: bytes) -> "array[float]":
    """Read little-endian float32, as float32_bytes writes them. Raises ValueError for a part of one."""
    numbers = array("f", sent)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def float32s(numbers: Iterable[float]) -> "array[float]":
    """Return the numbers as float32, four bytes each."""
    return array("f", numbers)


def received_vector(sent: bytes) -> "array[float]":
    """Read a vector as pgvector's `vector_send` sends it: the dimension, a spare field, big-endian float32."""
    numbers = array("f", sent[4:])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def settings_of(value: Any) -> Any:
    """Return settings with their fractions as exact bits, fit for canonical_json."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {name: settings_of(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [settings_of(part) for part in value]
    return value


def comparable(text: str) -> str:
    """Return the form in which texts are compared for equality: NFC, without the white space around them.

    Case, inner white space and compatibility forms count: to correct one of them may be the point of an edit.
    """
    return unicodedata.normalize("NFC", text).strip()


def prompt_key(prompt: str, kind: str) -> str:
    """Return a text that is equal for the same prompt, up to NFC and outer white space, of edits of the same kind."""
    return sha256_hex(f"{kind}\n{comparable(prompt)}".encode())


def edit_digest(
    *,
    prompt: str,
    target: str,
    alternatives: Sequence[str],
    rephrases: Sequence[str],
    unchanged: Sequence[str],
    kind: str,
) -> str:
    """Return the digest of an edit's content, whoever submitted it and whenever."""
    return sha256_hex(
        canonical_json(
            {
                "alternatives": list(alternatives),
                "format": FORMAT,
                "kind": kind,
                "prompt": prompt,
                "rephrases": list(rephrases),
                "target": target,
                "unchanged": list(unchanged),
            }
        )
    )


def edits_digest(digests: Iterable[str]) -> str:
    """Return one digest over a batch's edits, in their order."""
    whole = sha256(b"edits\n")
    for digest in digests:
        whole.update(digest.encode() + b"\n")
    return whole.hexdigest()


def record_digest(
    *, position: int, author: str, reason: str, source: str, replaces: int | None, prompt_key: str, digest: str
) -> str:
    """Return the digest of what a submission says of an edit: who, why, in which place and in whose, and its content.

    digest: that of its content. It is kept when the content is erased.
    """
    fields = (position, author, reason, source, replaces, prompt_key, digest)
    return sha256_hex(canonical_json([FORMAT, *fields]))


def records_digest(records: Iterable[tuple[int, str]]) -> str:
    """Return one digest over a batch's edits in their order, each by its id and its record's digest."""
    whole = sha256(b"records\n")
    for edit_id, digest in records:
        whole.update(f"{edit_id} {digest}\n".encode())
    return whole.hexdigest()


def work_digest(seed: int, settings: dict[str, Any]) -> str:
    """Return the digest of what a training is to be done with."""
    return sha256_hex(canonical_json({"format": FORMAT, "seed": seed, "settings": _as_stored(settings)}))


def report_digest(report: Any) -> str:
    """Return the digest of what a job reports of its edits."""
    return sha256_hex(canonical_json(_as_stored(report)))


def _as_stored(value: Any) -> Any:
    """Return JSON with all numbers as floats, by their bits: jsonb returns 1e16 as an integer, and -0.0 as 0.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value) + 0.0).hex()
    if isinstance(value, dict):
        return {name: _as_stored(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_stored(part) for part in value]
    return value


@dataclass(frozen=True)
class StoredPoint:
    """A point, as it was stored with its block."""

    id: int
    edit_id: int
    role: str
    key_sha256: str


@dataclass(frozen=True)
class StoredBlock:
    """A block as a job stored it: the row, the edits it was trained for, and the points that lead to it."""

    id: int
    sha256: str
    shapes: dict[str, Any]
    rank: int
    scale: float
    loss: float
    iterations: int
    edits: Sequence[int]
    points: Sequence[StoredPoint]


def stored_digest(blocks: Iterable[StoredBlock]) -> str:
    """Return one digest over the blocks that a job stored, in the order of their ids."""
    whole = sha256(b"stored\n")
    for block in blocks:
        row = asdict(block) | {"edits": list(block.edits), "points": [asdict(point) for point in block.points]}
        whole.update(canonical_json(settings_of(row)) + b"\n")
    return whole.hexdigest()


@dataclass(frozen=True)
class MemberContent:
    """A point, as it enters a cluster's digest."""

    key: bytes  # little-endian float32
    edit_digest: str
    role: str
    block_sha256: str


def cluster_digest(*, centre: bytes, radius: float, label: Sequence[int], members: Iterable[MemberContent]) -> str:
    """Return the digest of a cluster's state: centre (little-endian float32), radius, label and members, in order."""
    state = {
        "format": FORMAT,
        "centre": centre.hex(),
        "radius": float(radius).hex(),
        "label": list(label),
        "members": [
            {"key": sha256_hex(member.key), "edit": member.edit_digest, "role": member.role,
             "block": member.block_sha256}
            for member in members
        ],
    }  # fmt: skip
    return sha256_hex(canonical_json(state))


@dataclass(frozen=True)
class Foundation:
    """What every version of a collection is based on."""

    model_digest: str
    method: dict[str, Any]
    encoder_digest: str | None
    calibration_sha256: str | None


def content_digest(foundation: Foundation, content: Multiset) -> str:
    """Return a digest over everything that decides a version's answers.

    content: the state of the set of its elements, which are cluster_element and edit_element of the clusters valid in
    it and of its active edits. A version's state follows from its parent's state and what the version changes.
    """
    head = {
        "format": CONTENT_FORMAT,
        "model": foundation.model_digest,
        "method": settings_of(foundation.method),
        "encoder": foundation.encoder_digest,
        "calibration": foundation.calibration_sha256,
    }
    return sha256_hex(canonical_json(head) + b"\nset\n" + bytes(content))


def cluster_element(digest: str) -> str:
    """Return a cluster's state, by its digest, as an element of a version's content."""
    return f"cluster:{digest}"


def edit_element(digest: str) -> str:
    return f"edit:{digest}"


def event_hash(event: dict[str, Any]) -> str:
    """Return the hash of an audit event with everything but this hash and its signature.

    It covers the previous event's hash.
    """
    left_out = ("hash", "signed_by", "signature")
    return sha256_hex(canonical_json({name: value for name, value in event.items() if name not in left_out}))
