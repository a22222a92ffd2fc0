"""Checking a submission: every problem of every record is found before anything is stored."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from registry.digests import collapse, prompt_key
from registry.edits.repository import StandingEdit
from registry.edits.schemas import EditIn
from registry.errors import RecordProblem
from registry.vocabulary import OnConflict

DUPLICATE = "duplicate"
CONTRADICTION = "contradiction"
COLLISIONS = frozenset({DUPLICATE, CONTRADICTION})


@dataclass(frozen=True)
class Record:
    """A well-formed edit at its place in the submission."""

    position: int
    edit: EditIn
    prompt_key: str
    replaces: int | None

    def problem(self, code: str, detail: str, remedy: str, **more: Any) -> RecordProblem:
        return RecordProblem(
            position=self.position,
            line=self.edit.line,
            code=code,
            detail=detail,
            remedy=remedy,
            prompt=self.edit.prompt,
            target=self.edit.target,
            **more,
        )


def read_records(raw: Sequence[dict[str, Any]]) -> tuple[list[Record], list[RecordProblem]]:
    """Records that have the form of an edit, and what is wrong with the others."""
    records: list[Record] = []
    problems: list[RecordProblem] = []
    for position, fields in enumerate(raw, start=1):
        try:
            edit = EditIn.model_validate(fields)
        except ValidationError as error:
            line = fields.get("line")
            problems += [
                RecordProblem(
                    position=position,
                    line=line if isinstance(line, int) else None,
                    code="malformed",
                    field=".".join(str(part) for part in found["loc"]),
                    detail=_in_words(found["loc"], found["type"], found["msg"]),
                    remedy="Correct the record, or leave it out.",
                )
                for found in error.errors(include_url=False, include_context=False, include_input=False)
            ]
            continue
        records.append(Record(position, edit, prompt_key(edit.prompt), edit.replaces))
    return records, problems


def _in_words(place: tuple[int | str, ...], kind: str, message: str) -> str:
    name = str(place[0]) if place else "record"
    if kind == "missing":
        return f"It has no {name}."
    if kind == "extra_forbidden":
        return f"It has a field {name!r}, which an edit does not have."
    reason = message.removeprefix("Value error, ")
    if reason == "it is empty":
        return f"Its {name} is empty."
    return f"Its {name} is not valid: {reason[0].lower()}{reason[1:]}."


def too_long(
    records: Iterable[Record], *, window: int, reserved: int, count_tokens: Callable[[str], int | None]
) -> list[RecordProblem]:
    """Prompts that, with their target and the chat template, do not fit into the model's window.

    A tokenizer makes at most one token of a byte, so only long texts need to be counted.
    """
    problems = []
    for record in records:
        for field, prompt in _prompts(record.edit):
            text = f"{prompt} {record.edit.target}"
            if len(text.encode()) + reserved <= window:
                continue
            tokens = count_tokens(text)
            if tokens is None or tokens + reserved <= window:
                continue
            problems.append(
                record.problem(
                    "too-long",
                    f"Its {field} and target have {tokens} tokens; with {reserved} for the chat template they do "
                    f"not fit into the model's window of {window}.",
                    f"Shorten it by {tokens + reserved - window} tokens or more.",
                    field=field,
                )
            )
    return problems


def _prompts(edit: EditIn) -> Iterable[tuple[str, str]]:
    yield "prompt", edit.prompt
    for field, prompts in (("rephrases", edit.rephrases), ("unchanged", edit.unchanged)):
        for index, prompt in enumerate(prompts):
            yield f"{field}.{index}", prompt


def collisions_within(records: Iterable[Record]) -> list[RecordProblem]:
    """Records whose prompt an earlier record of the submission has already."""
    first: dict[str, Record] = {}
    problems = []
    for record in records:
        earlier = first.setdefault(record.prompt_key, record)
        if earlier is record:
            continue
        place = f"line {earlier.edit.line}" if earlier.edit.line else f"record {earlier.position}"
        same = same_target(record.edit.target, earlier.edit.target)
        problems.append(
            record.problem(
                DUPLICATE if same else CONTRADICTION,
                f"It repeats {place}."
                if same
                else f"It contradicts {place}: the same prompt, but the target {earlier.edit.target!r}.",
                "Leave one of the two out.",
                other_position=earlier.position,
                other_prompt=earlier.edit.prompt,
                other_target=earlier.edit.target,
            )
        )
    return problems


def collisions_with(
    records: Sequence[Record],
    standing: Sequence[StandingEdit],
    replaceable: dict[int, StandingEdit],
    on_conflict: OnConflict,
) -> tuple[list[Record], list[RecordProblem]]:
    """Check records against the edits that stand.

    standing: edits with one of the records' prompts. replaceable: those that the records name in `replaces` and
    that stand. Returns the records, `replaces` filled in under OnConflict.REPLACE, and the problems.
    """
    by_key: dict[str, list[StandingEdit]] = {}
    for other in standing:
        by_key.setdefault(other.prompt_key, []).append(other)
    checked: list[Record] = []
    problems: list[RecordProblem] = []
    for record in records:
        replaces = record.replaces
        if replaces is not None and replaces not in replaceable:
            problems.append(
                record.problem(
                    "replaces-nothing",
                    f"It replaces edit {replaces}, which is neither active nor waiting in this collection.",
                    "Leave `replaces` out, or name an active edit (`melo edits list`).",
                    field="replaces",
                    other_edit_id=replaces,
                )
            )
        rivals = by_key.get(record.prompt_key, [])
        if replaces is None and on_conflict == OnConflict.REPLACE:
            replaces = next((rival.id for rival in rivals if _contradicts(record, rival) and _acts(rival)), None)
        problems += [_collision(record, rival) for rival in rivals if rival.id != replaces]
        checked.append(Record(record.position, record.edit, record.prompt_key, replaces))
    return checked, problems


def same_target(one: str, other: str) -> bool:
    """Letter case counts: to correct it may be the point of the edit."""
    return collapse(one) == collapse(other)


def _contradicts(record: Record, rival: StandingEdit) -> bool:
    return not same_target(record.edit.target, rival.target)


def _acts(rival: StandingEdit) -> bool:
    return rival.active_since is not None


def _collision(record: Record, rival: StandingEdit) -> RecordProblem:
    where = (
        f"active since version {rival.active_since}"
        if _acts(rival)
        else f"{rival.batch_state} in batch {rival.batch_id}"
    )
    rival_facts = {"other_edit_id": rival.id, "other_prompt": rival.prompt, "other_target": rival.target}
    if not _contradicts(record, rival):
        return record.problem(
            DUPLICATE,
            f"It repeats edit {rival.id} ({where}).",
            "Leave it out, or submit with on_conflict=skip.",
            **rival_facts,
        )
    remedy = (
        f"To replace edit {rival.id}, set replaces={rival.id} or submit with on_conflict=replace; "
        "to keep it, leave this record out or submit with on_conflict=skip."
        if _acts(rival)
        else f"Decide on batch {rival.batch_id} first, or set replaces={rival.id}."
    )
    return record.problem(
        CONTRADICTION,
        f"It contradicts edit {rival.id} ({where}): the same prompt, but the target {rival.target!r}.",
        remedy,
        **rival_facts,
    )
