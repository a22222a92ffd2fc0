"""The events as JSONL, to be kept elsewhere and verified there without a database."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import checkpoint as checkpoints
from registry.audit import repository
from registry.audit.chain import GENESIS, follow, hashed_fields
from registry.audit.schemas import Checkpoint, ExportVerification, FindingView
from registry.base.digests import canonical_json
from registry.base.errors import InvalidRequest

_LONGEST_LIST = 1_000


def lines(session: Session, since: int) -> Iterator[bytes]:
    """Yield each event after seq `since` in the form that its hash covers, with the hash."""
    for event in repository.stream(session, after=since):
        yield canonical_json({**hashed_fields(event), "hash": event.hash}) + b"\n"


def verify(source: Iterable[bytes], checkpoint: Checkpoint | None = None) -> ExportVerification:
    """Recompute the chain of an exported file. A file that begins later is verified from there on.

    Raises InvalidRequest if a line is not an event, or if there are none.
    """
    events = _events(source)
    first = next(events, None)
    if first is None:
        raise InvalidRequest("The file holds no events.", "Give a file that `melo audit export` wrote.")
    head, at_checkpoint, count = first, None, 0

    def watched() -> Iterator[dict[str, Any]]:
        nonlocal head, at_checkpoint, count
        for event in chain([first], events):
            head, count = event, count + 1
            if checkpoint is not None and event["seq"] == checkpoint.seq:
                at_checkpoint = event["hash"]
            yield event

    findings: list[FindingView] = []
    before = first["seq"] - 1
    for seq, wrong in follow(watched(), before, None if before else GENESIS):
        findings += [FindingView(subject=f"event {seq}", detail=detail) for detail in wrong]
    if checkpoint is not None:
        if checkpoint.seq == before and before and checkpoint.hash == first["previous_hash"]:
            at_checkpoint = checkpoint.hash  # the file follows the checkpoint directly
        findings += checkpoints.compare_hash(checkpoint, at_checkpoint)
    return ExportVerification(
        ok=not findings,
        verified={"events": count},
        findings=findings[:_LONGEST_LIST],
        first_seq=first["seq"],
        head_seq=head["seq"],
        head_hash=head["hash"],
    )


def _events(source: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(source, 1):
        try:
            event = json.loads(line)
            if not (isinstance(event["seq"], int) and isinstance(event["previous_hash"], str)):
                raise TypeError
            canonical_json(event)
            event["hash"] = str(event["hash"])
        except (ValueError, TypeError, KeyError):
            raise InvalidRequest(
                f"Line {number} is not an event.", "Give a file that `melo audit export` wrote, whole."
            ) from None
        yield event
