"""Validating a submission: every problem of every record is found before anything is stored.

Each validation yields its problems in the order of the records, so that the first ones can be told without keeping all.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from unicodedata import normalize

from registry.base.digests import comparable
from registry.base.errors import RecordProblem
from registry.edits.records import Record
from registry.edits.repository import StandingEdit

DUPLICATE = "duplicate"
CONTRADICTION = "contradiction"
COLLISIONS = frozenset({DUPLICATE, CONTRADICTION})
_COUNTED_AT_ONCE = 1_000  # texts whose tokens are held in memory at once,
_BYTES_AT_ONCE = 256 << 10  # and the bytes of these texts, but for a longer one alone
_LONGEST_TOKEN = 200  # bytes; a text whose tokens would have to be longer does not fit


def too_long(
    records: Iterable[Record],
    *,
    window: int,
    reserved: int,
    count_tokens: Callable[[Sequence[str]], Sequence[int] | None],
    attend: Callable[[], None],
    most_tokens: int | None = None,
) -> Iterator[RecordProblem]:
    """Yield prompts that, with their target and the chat template, do not fit into the model's window.

    A tokenizer makes at most one token per byte of a text in NFKC, into which many bring it first, and where one
    character may become 18. So only long texts need to be counted, and the longest not either. They are counted some
    at a time, until they have most_tokens together; those after them are refused uncounted. count_tokens: None if
    tokens cannot be counted here. attend: called before each count; raises to stop.
    """
    most, counted = window * _LONGEST_TOKEN, 0
    for some in _pieces(_long(records, window - reserved)):
        attend()
        if most_tokens is not None and counted >= most_tokens:
            yield from (_beyond(record, field, most_tokens) for record, field, _, _ in some)
            continue
        counts = count_tokens([text if size <= most else "" for _, _, text, size in some])
        if counts is None:
            return
        counted += sum(counts)
        for (record, field, _, size), tokens in zip(some, counts, strict=True):
            if size > most:
                yield record.problem(
                    "too-long",
                    f"Its {field} and target have {size:,} bytes, which do not fit into the model's window of {window} "
                    "tokens.",
                    "Shorten it.",
                    field=field,
                )
            elif tokens + reserved > window:
                yield record.problem(
                    "too-long",
                    f"Its {field} and target have {tokens} tokens; with {reserved} for the chat template they do "
                    f"not fit into the model's window of {window}.",
                    f"Shorten it by {tokens + reserved - window} tokens or more.",
                    field=field,
                )


def _beyond(record: Record, field: str, most_tokens: int) -> RecordProblem:
    return record.problem(
        "too-many-tokens",
        f"The long prompts before its {field} have {most_tokens:,} tokens together, as many as a submission may have "
        "before anybody has approved it.",
        "Submit it with a later batch, or shorten the long prompts; the operator may raise MELO_SUBMISSION_TOKENS.",
        field=field,
    )


Long = tuple[Record, str, str, int]  # a record, the field, its text with the target, and the bytes of that


def _long(records: Iterable[Record], room: int) -> Iterator[Long]:
    for record in records:
        for field, prompt in record.prompts():
            text = f"{prompt} {record.target}"
            size = len(text) if text.isascii() else _most_bytes(text)
            if size > room:
                yield record, field, text, size


def _most_bytes(text: str) -> int:
    """Return the bytes of a text in NFKC, or a few more: character by character, since it is slow for whole texts."""
    return sum(_bytes_of(character) * count for character, count in Counter(text).items())


@lru_cache(maxsize=1 << 16)
def _bytes_of(character: str) -> int:
    return len(normalize("NFKC", character).encode())


def _pieces(long: Iterator[Long]) -> Iterator[list[Long]]:
    """Gather texts up to as many as may be counted at once."""
    some: list[Long] = []
    held = 0
    for each in long:
        if some and (len(some) == _COUNTED_AT_ONCE or held + each[3] > _BYTES_AT_ONCE):
            yield some
            some, held = [], 0
        some.append(each)
        held += each[3]
    if some:
        yield some


def with_control_tokens(records: Iterable[Record], tokens: Collection[str]) -> Iterator[RecordProblem]:
    """Yield texts that hold one of the model's control tokens, which it would obey rather than read."""
    if not tokens:
        return
    any_token = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    for record in records:
        for field, text in (*record.prompts(), ("target", record.target), *_alternatives(record)):
            if found := any_token.search(text):
                yield record.problem(
                    "control-token",
                    f"Its {field} holds {found.group()}, a control token of the model, which would end or begin a turn "
                    "or a text rather than be read.",
                    f"Leave {found.group()} out: the chat template adds what a prompt needs.",
                    field=field,
                )


def _alternatives(record: Record) -> Iterator[tuple[str, str]]:
    return ((f"alternatives.{index}", text) for index, text in enumerate(record.alternatives))


def collisions_within(records: Iterable[Record]) -> Iterator[RecordProblem]:
    """Yield records whose prompt already occurs in an earlier record of the submission."""
    first: dict[str, Record] = {}
    for record in records:
        earlier = first.setdefault(record.prompt_key, record)
        if earlier is record:
            continue
        place = f"line {earlier.line}" if earlier.line else f"record {earlier.position}"
        same = same_target(record.target, earlier.target)
        yield record.problem(
            DUPLICATE if same else CONTRADICTION,
            f"It repeats {place}."
            if same
            else f"It contradicts {place}: the same prompt, but the target {earlier.target!r}.",
            "Leave one of the two out, or submit with `on_conflict=skip`: the first then stays.",
            other_position=earlier.position,
            other_prompt=earlier.prompt,
            other_target=earlier.target,
        )


def replacing(record: Record, rivals: Sequence[StandingEdit]) -> Record:
    """Return the record with `replaces` set to the active edit that it contradicts (OnConflict.REPLACE)."""
    if record.replaces is not None:
        return record
    found = next((rival.id for rival in rivals if _contradicts(record, rival) and _acts(rival)), None)
    return record if found is None else replace(record, replaces=found)


def collisions_with(
    records: Iterable[Record], standing: Mapping[str, Sequence[StandingEdit]], replaceable: Container[int]
) -> Iterator[RecordProblem]:
    """Yield records whose prompt already has an edit that is active or on its way, unless they replace it.

    standing: those edits, by prompt key. replaceable: edits that a record may name in `replaces`.
    """
    for record in records:
        if record.replaces is not None and record.replaces not in replaceable:
            yield record.problem(
                "replaces-nothing",
                f"It replaces edit {record.replaces}, which is neither active nor waiting in this collection.",
                "Leave `replaces` out, or name an active edit (`melo edit list`).",
                field="replaces",
                other_edit_id=record.replaces,
            )
        for rival in standing.get(record.prompt_key, ()):
            if rival.id != record.replaces:
                yield _collision(record, rival)


def same_target(one: str, other: str) -> bool:
    """Return whether two targets are the same. Letter case counts: correcting it may be the point of the edit."""
    return comparable(one) == comparable(other)


def _contradicts(record: Record, rival: StandingEdit) -> bool:
    return not same_target(record.target, rival.target)


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
            "Leave it out, or submit with `on_conflict=skip`.",
            **rival_facts,
        )
    remedy = (
        f"To replace edit {rival.id}, give `replaces={rival.id}` or submit with `on_conflict=replace`; "
        "to keep it, leave this record out or submit with `on_conflict=skip`."
        if _acts(rival)
        else f"Decide on batch {rival.batch_id} first, or give `replaces={rival.id}`."
    )
    return record.problem(
        CONTRADICTION,
        f"It contradicts edit {rival.id} ({where}): the same prompt, but the target {rival.target!r}.",
        remedy,
        **rival_facts,
    )
