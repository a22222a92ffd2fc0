"""Taking an edit's content out of what other records quote of it: reports, progress and errors of jobs."""

from collections.abc import Collection as Group
from collections.abc import Sequence
from typing import Any

GONE = "[erased]"
_OF_EDIT = ("edit_id",)  # an object with this field is about that edit, as is all that lies in it
_BY_EDIT = ("by_edit", "answered_by")  # the texts beside this field are that edit's answers


def scrubbed(value: Any, edit_ids: Group[int], quotes: Sequence[str]) -> Any:
    """The JSON value without the edits' content: texts of objects about them are gone, others no longer quote them."""
    if isinstance(value, dict):
        if any(value.get(name) in edit_ids for name in _OF_EDIT):
            return _emptied(value, deep=True)
        if any(value.get(name) in edit_ids for name in _BY_EDIT):
            value = _emptied(value, deep=False)
        return {name: scrubbed(part, edit_ids, quotes) for name, part in value.items()}
    if isinstance(value, list):
        return [scrubbed(part, edit_ids, quotes) for part in value]
    return unquoted(value, quotes) if isinstance(value, str) else value


def unquoted(text: str, quotes: Sequence[str]) -> str:
    for quote in sorted(quotes, key=len, reverse=True):
        text = text.replace(quote, GONE)
    return text


def _emptied(value: Any, *, deep: bool) -> Any:
    """Without its texts; those of an object's own fields alone, where it is not deep."""
    if isinstance(value, str):
        return GONE
    if isinstance(value, dict):
        return {
            name: _emptied(part, deep=True) if deep or isinstance(part, str) else part for name, part in value.items()
        }
    return [_emptied(part, deep=True) for part in value] if isinstance(value, list) else value
