"""The signed head of the chain: kept elsewhere, it reveals a record that was truncated or rewritten as a whole.

A checkpoint is not an event: it changes nothing, and an event would move the head that it signs.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.orm import Session

from registry.audit import repository
from registry.audit.schemas import Checkpoint, FindingView, PublicKeyView
from registry.audit.signing import is_signed, public_key, public_text, signed

FORMAT = "melo-checkpoint/1"


def make(session: Session, key: Ed25519PrivateKey) -> Checkpoint:
    """Sign the chain's newest event and the size of the record.

    What is written in between may be counted although its event is not the signed one: both only grow, so what is
    signed stays true.
    """
    tip = repository.tip(session)
    content = {
        "format": FORMAT,
        "registry": repository.registry_id(session),
        "seq": tip.seq,
        "hash": tip.hash,
        "time": tip.now.astimezone(UTC).isoformat(timespec="microseconds"),
        "counts": repository.rows_kept(session),
    }
    return Checkpoint(**signed(key, content))


def identity(session: Session, key: Ed25519PrivateKey) -> PublicKeyView:
    return PublicKeyView(public_key=public_text(key), registry=repository.registry_id(session))


def unsigned(checkpoint: Checkpoint, expected: str | None) -> Iterator[FindingView]:
    """Yield what is wrong with the checkpoint itself.

    expected: the public key that should have signed it, as text. Raises InvalidRequest if `expected` is not a public
    key.
    """
    subject = f"checkpoint at event {checkpoint.seq}"
    if checkpoint.format != FORMAT:
        yield FindingView(subject=subject, detail=f"its form is {checkpoint.format!r}, and this program reads {FORMAT}")
    if expected is not None and public_text(public_key(expected)) != checkpoint.public_key:
        yield FindingView(subject=subject, detail=f"another key signed it: {checkpoint.public_key}")
    if not is_signed(checkpoint.model_dump(), public_key(checkpoint.public_key)):
        yield FindingView(subject=subject, detail="its signature does not match its content")


def compare(session: Session, checkpoint: Checkpoint) -> Iterator[FindingView]:
    """Yield where the record is not a continuation of the one that was signed."""
    subject = f"checkpoint at event {checkpoint.seq}"
    own = repository.registry_id(session)
    if own != checkpoint.registry:
        detail = f"it is of the registry {checkpoint.registry}, and this one is {own}"
        yield FindingView(subject=subject, detail=detail)
    yield from compare_hash(checkpoint, repository.hash_of(session, checkpoint.seq))
    for table, now in _lost(checkpoint.counts, repository.rows_kept(session)):
        detail = f"{table} had {checkpoint.counts[table]} rows, and has {now}"
        yield FindingView(subject=subject, detail=detail)


def compare_hash(checkpoint: Checkpoint, found: str | None) -> Iterator[FindingView]:
    """Compare the event's hash with the checkpoint's.

    found: the current hash of the event, or None if the event is gone.
    """
    subject = f"event {checkpoint.seq}"
    if checkpoint.seq == 0:
        return
    if found is None:
        yield FindingView(subject=subject, detail="the checkpoint was made at it, and it is gone: the end was cut off")
    elif found != checkpoint.hash:
        detail = f"its hash is {found}, but {checkpoint.hash} was signed: the events up to it were written anew"
        yield FindingView(subject=subject, detail=detail)


def _lost(signed: Mapping[str, int], counts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for table, count in signed.items():
        if counts.get(table, 0) < count:
            yield table, counts.get(table, 0)
