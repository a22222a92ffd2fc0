"""The events as JSONL, to be kept elsewhere and verified there without a database."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import checkpoint as checkpoints
from registry.audit import repository
from registry.audit.chain import GENESIS, exported_fields, follow, moment
from registry.audit.schemas import Checkpoint, ExportVerification, FindingView
from registry.audit.trust import Trust, signatures_in_words
from registry.base.digests import canonical_json
from registry.base.errors import InvalidRequest

_LONGEST_LIST = 1_000


def lines(session: Session, since: int) -> Iterator[bytes]:
    """Yield each event after seq `since` in the form that its hash covers, with the hash."""
    for event in repository.stream(session, after=since):
        yield canonical_json(exported_fields(event)) + b"\n"


def verify(
    source: Iterable[bytes], checkpoint: Checkpoint | None = None, trust: Trust | None = None
) -> ExportVerification:
    """Recompute the chain of an exported file. A file that begins later is verified from there on.

    trust: the keys that must have signed the events; None: signatures are not looked at. Raises InvalidRequest if a
    line is not an event, or if there are none.
    """
    events = _events(source)
    first = next(events, None)
    if first is None:
        raise InvalidRequest("The file holds no events.", "Give a file that `melo audit export` wrote.")
    head, at_checkpoint, count, unsigned = first, None, 0, 0
    earlier = list[int]()  # events after the checkpoint whose time lies before it
    since = moment(checkpoint.time) if checkpoint is not None else None

    def watched() -> Iterator[dict[str, Any]]:
        nonlocal head, at_checkpoint, count, unsigned
        for event in chain([first], events):
            head, count, unsigned = event, count + 1, unsigned + (event.get("signature") is None)
            at = moment(event.get("at"))
            if checkpoint is not None and since and at and event["seq"] > checkpoint.seq and at < since:
                earlier.append(event["seq"])
            if checkpoint is not None and event["seq"] == checkpoint.seq:
                at_checkpoint = event["hash"]
            yield event

    findings: list[FindingView] = []
    before = first["seq"] - 1
    checked = trust.in_order() if trust else lambda _: None
    for seq, wrong in follow(watched(), before, None if before else GENESIS, checked):
        findings += [FindingView(subject=f"event {seq}", detail=detail) for detail in wrong]
    if checkpoint is not None:
        if checkpoint.seq == before and before and checkpoint.hash == first["previous_hash"]:
            at_checkpoint = checkpoint.hash  # the file follows the checkpoint directly
        findings += checkpoints.compare_hash(checkpoint, at_checkpoint)
        findings += checkpoints.compare_times(checkpoint, earlier)
    return ExportVerification(
        ok=not findings,
        verified={"events": count},
        findings=findings[:_LONGEST_LIST],
        first_seq=first["seq"],
        head_seq=head["seq"],
        head_hash=head["hash"],
        unsigned_events=unsigned,
        signatures=signatures_in_words(trust, unsigned),
    )


def _events(source: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(source, 1):
        try:
            event = json.loads(line, object_pairs_hook=_object)
            if not (isinstance(event["seq"], int) and isinstance(event["previous_hash"], str)):
                raise TypeError
            canonical_json(event)
            event["hash"] = str(event["hash"])
        except _Twice as error:
            raise InvalidRequest(
                f"Line {number} says {error} twice, so programs may read it differently.",
                "Give a file that `melo audit export` wrote, unchanged.",
            ) from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InvalidRequest(
                f"Line {number} is not an event.", "Give a file that `melo audit export` wrote, whole."
            ) from None
        yield event


class _Twice(ValueError):
    """An object of JSON has a name twice. Programs differ in which of the two they take."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(repr(name))
        found[name] = value
    return found
