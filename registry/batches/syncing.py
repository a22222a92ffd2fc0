"""Brings a collection up to a list of corrections: new ones are added, changed ones replaced, equal ones stay."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy.orm import Session

from registry.base.digests import comparable, edit_digest
from registry.base.errors import RecordProblem
from registry.edits import repository
from registry.edits.records import Record
from registry.edits.repository import StandingEdit
from registry.edits.validation import DUPLICATE
from registry.tables.edits import Edit

WAITING = "waiting"


@dataclass
class SyncPlan:
    """What a list changes in a collection."""

    records: list[Record] = field(default_factory=list)  # new ones, and those that replace an edit
    replaced: dict[int, Edit] = field(default_factory=dict)  # by the position of the record that replaces it
    unchanged: int = 0  # records that say what is active, or waits already
    left_out: list[RecordProblem] = field(default_factory=list)  # repeated ones; ones that a waiting edit contradicts
    missing: list[int] = field(default_factory=list)  # active edits whose prompts the list does not have
    waiting: dict[int, int] = field(default_factory=dict)  # by batch: edits that wait, and that it does not have

    def notes(self) -> tuple[str, ...]:
        """Say which edits wait that the list does not have."""
        return tuple(
            f"Batch {batch} waits with {count} of its edits not in the list. If they are to be gone: "
            f"melo batch reject {batch} --reason … (or cancel)."
            for batch, count in self.waiting.items()
        )


def plan(session: Session, collection_id: int, records: Sequence[Record]) -> SyncPlan:
    """Compare a list with the edits that are active or wait.

    A list that says nothing of rephrases, alternatives or guards leaves those of an edit as they are; guards are only
    ever added. The collection is locked by the caller.
    """
    keys = [record.prompt_key for record in records]
    standing: dict[str, list[StandingEdit]] = {}
    for rival in repository.standing_by_key(session, collection_id, keys):
        standing.setdefault(rival.prompt_key, []).append(rival)
    edits = {edit.id: edit for edit in repository.by_ids(session, (r.id for found in standing.values() for r in found))}
    made = SyncPlan(
        missing=repository.active_without(session, collection_id, keys),
        waiting=repository.waiting_without(session, collection_id, keys),
    )
    first: dict[str, Record] = {}
    for record in records:
        earlier = first.setdefault(record.prompt_key, record)
        if earlier is not record:
            place = f"line {earlier.line}" if earlier.line else f"record {earlier.position}"
            made.left_out.append(record.problem(DUPLICATE, f"It repeats {place}, which was taken.", ""))
            continue
        _place(made, record, standing.get(record.prompt_key, ()), edits)
    return made


def _place(made: SyncPlan, record: Record, rivals: Sequence[StandingEdit], edits: dict[int, Edit]) -> None:
    waiting = [rival for rival in rivals if rival.active_since is None]
    if any(_says_the_same(record, edits[rival.id]) for rival in waiting or rivals):
        made.unchanged += 1
    elif waiting:
        made.left_out.append(_contradicted(record, waiting[-1]))
    elif rivals:
        active = edits[rivals[0].id]
        made.records.append(_continuing(record, active))
        made.replaced[record.position] = active
    else:
        made.records.append(replace(record, replaces=None))


def _says_the_same(record: Record, edit: Edit) -> bool:
    return (
        comparable(record.target) == comparable(edit.target)
        and _is_given(record.alternatives, edit.alternatives)
        and _is_given(record.rephrases, edit.rephrases)
        and set(record.unchanged) <= set(edit.unchanged)
    )


def _is_given(wanted: Collection[str], there: Iterable[str]) -> bool:
    """Return whether a list says nothing, or names the same texts."""
    return not wanted or set(wanted) == set(there)


def _continuing(record: Record, edit: Edit) -> Record:
    """Return the record as the edit's successor, with what it does not speak of."""
    same_answer = comparable(record.target) == comparable(edit.target)
    alternatives = record.alternatives or (tuple(edit.alternatives) if same_answer else ())
    rephrases = record.rephrases or tuple(edit.rephrases)
    unchanged = tuple(dict.fromkeys((*edit.unchanged, *record.unchanged)))
    digest = edit_digest(
        prompt=record.prompt,
        target=record.target,
        alternatives=alternatives,
        rephrases=rephrases,
        unchanged=unchanged,
        kind=record.kind,
    )
    return replace(
        record, alternatives=alternatives, rephrases=rephrases, unchanged=unchanged, replaces=edit.id, digest=digest
    )


def _contradicted(record: Record, waiting: StandingEdit) -> RecordProblem:
    return record.problem(
        WAITING,
        f"For its prompt, edit {waiting.id} waits in batch {waiting.batch_id} ({waiting.batch_state}), with the target "
        f"{waiting.target!r}.",
        f"Decide on batch {waiting.batch_id}, or wait until it is applied, and do the same again.",
        other_edit_id=waiting.id,
        other_prompt=waiting.prompt,
        other_target=waiting.target,
    )
