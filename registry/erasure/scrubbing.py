"""Removes an edit's content from what quotes it: reports, progress and errors of jobs."""

import json
import re
from collections.abc import Collection as Group
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

GONE = "[erased]"
_OF_EDIT = ("edit_id", "subject_of")  # an object with this field is about that edit, as is everything in it
_BY_EDIT = ("by_edit", "answered_by")  # the texts next to this field are that edit's answers
_ANSWERS = ("before", "answer")  # a model's answer, without the edit it came from


@dataclass(frozen=True)
class Erasing:
    """What to remove."""

    edit_ids: Group[int]
    quotes: Sequence[str]  # texts to remove wherever they are quoted, from `forms_of`
    targets: Group[str]  # answers that contain one of these are removed entirely


def scrubbed(value: Any, erasing: Erasing) -> Any:
    """Return the JSON value without the edits' content.

    Texts of objects about the edits are removed, and other texts no longer quote them.
    """
    if isinstance(value, dict):
        if any(value.get(name) in erasing.edit_ids for name in _OF_EDIT):
            return _emptied(value, deep=True)
        if any(value.get(name) in erasing.edit_ids for name in _BY_EDIT):
            value = _emptied(value, deep=False)
        return {
            name: GONE if name in _ANSWERS and _says(part, erasing.targets) else scrubbed(part, erasing)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [scrubbed(part, erasing) for part in value]
    return _unquoted(value, erasing.quotes) if isinstance(value, str) else value


def forms_of(texts: Iterable[str]) -> list[str]:
    """Return each text as it is and as messages quote it, with the escapes of Python and of JSON; longest first."""
    found = set()
    for text in texts:
        found |= {text, repr(text)[1:-1], repr(text + '"')[1:-2]}
        found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return sorted(found - {""}, key=lambda form: (-len(form), form))


def named_in(value: Any, edit_ids: Group[int]) -> set[int]:
    """Return those of the edits that a JSON value names, in its fields or in words."""
    if isinstance(value, dict):
        fields = (value.get(name) for name in (*_OF_EDIT, *_BY_EDIT))
        found = {field for field in fields if isinstance(field, int) and field in edit_ids}
        return found.union(*(named_in(part, edit_ids) for part in value.values()))
    if isinstance(value, list):
        return set[int]().union(*(named_in(part, edit_ids) for part in value))
    if not isinstance(value, str):
        return set()
    places = re.findall(r"\bedits?\b[^.:;]*|\breplaces=[0-9]+", value, re.I)
    return {int(number) for place in places for number in re.findall(r"\b[0-9]+\b", place)}.intersection(edit_ids)


def _says(answer: Any, targets: Iterable[str]) -> bool:
    """Return whether the answer contains the words of a target."""
    if not isinstance(answer, str):
        return False
    words = (target.strip() for target in targets if target.casefold().strip() in answer.casefold())
    return any(word and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.I) for word in words)


def _unquoted(text: str, quotes: Sequence[str]) -> str:
    for quote in quotes:
        text = text.replace(quote, GONE)
    return text


def _emptied(value: Any, *, deep: bool) -> Any:
    """Return the value without its texts; if not deep, only those in an object's own fields are removed."""
    if isinstance(value, str):
        return GONE
    if isinstance(value, dict):
        return {
            name: _emptied(part, deep=True) if deep or isinstance(part, str) else part for name, part in value.items()
        }
    return [_emptied(part, deep=True) for part in value] if isinstance(value, list) else value
