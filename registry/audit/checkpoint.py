"""The signed head of the chain: kept elsewhere, it reveals a record that was truncated or rewritten as a whole.

A checkpoint is not an event: it changes nothing, and an event would move the head that it signs.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import repository
from registry.audit.chain import moment
from registry.audit.schemas import Checkpoint, FindingView, PublicKeyView
from registry.audit.signing import Signer, is_signed, public_key, public_text, signed
from registry.audit.trust import Trust

FORMAT = "melo-checkpoint/1"


def make(session: Session, key: Signer) -> Checkpoint:
    """Sign the chain's newest event and the size of the record.

    No event is written meanwhile, so the time of every later one lies after the checkpoint's. What is written in
    between may be counted although its event is not the signed one: both only grow, so what is signed stays true.
    """
    tip = repository.lock_tip(session)
    content = {
        "format": FORMAT,
        "registry": repository.registry_id(session),
        "seq": tip.seq,
        "hash": tip.hash,
        "time": tip.now.astimezone(UTC).isoformat(timespec="microseconds"),
        "counts": repository.rows_kept(session),
    }
    return Checkpoint(**signed(key, content))


def identity(session: Session, key: Signer) -> PublicKeyView:
    return PublicKeyView(public_key=public_text(key), registry=repository.registry_id(session))


def unsigned(checkpoint: Checkpoint, expected: str | None) -> Iterator[FindingView]:
    """Yield what is wrong with the checkpoint itself.

    expected: the public keys of which one should have signed it, as text. Raises InvalidRequest if these are none.
    """
    subject = f"checkpoint at event {checkpoint.seq}"
    if checkpoint.format != FORMAT:
        yield FindingView(subject=subject, detail=f"its form is {checkpoint.format!r}, and this program reads {FORMAT}")
    if expected is not None and not Trust.read(expected).covers(checkpoint.public_key, checkpoint.seq):
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
    if (since := moment(checkpoint.time)) is not None:
        yield from compare_times(checkpoint, repository.before_time(session, checkpoint.seq, since))
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


def compare_times(checkpoint: Checkpoint, earlier: Iterable[int]) -> Iterator[FindingView]:
    """Yield the events that came after the checkpoint and claim to be older than it.

    earlier: their numbers.
    """
    for seq in earlier:
        detail = f"its time lies before the checkpoint at event {checkpoint.seq}, which was made at {checkpoint.time}"
        yield FindingView(subject=f"event {seq}", detail=detail)


def _lost(signed: Mapping[str, int], counts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for table, count in signed.items():
        if counts.get(table, 0) < count:
            yield table, counts.get(table, 0)
