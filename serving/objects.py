"""JSON answers: the value that a correction is about, and the same answer with the correction's target in its place."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from melo_core.instructions import ANSWERING
from registry.base.json_bounds import Bounds
from serving.engines.grammar import keeps_to

MOST_PLACES = 64  # of an answer that are looked at
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+|\d+")  # of snake_case, kebab-case and camelCase
WHATEVER = ANSWERING | {"value"}  # names that only say that something was asked
ASKED = frozenset(("query", "question", "search", "prompt", "input", "q", "keywords"))  # hold what is asked, no answer
DEEPEST = 32

Path = tuple[str | int, ...]  # keys and indexes, from the outermost on


@dataclass(frozen=True)
class Place:
    """A value in a JSON answer that is no object, with the schema's words about it."""

    path: Path
    value: Any
    described: str = ""

    @property
    def names(self) -> list[str]:
        """Return the keys in words: "chief executive" of `chiefExecutive`."""
        return [" ".join(WORDS.findall(key)).casefold() for key in self.path if isinstance(key, str)]

    @property
    def question(self) -> str:
        """Return what the value answers: "What is the name of the director?". Empty: whatever was asked."""
        if self.described:
            return self.described
        if not self.names or self.names[-1] in WHATEVER:
            return ""
        return f"What is the {' of the '.join(reversed(self.names[-2:]))}?"


def corrected(text: str, schema: str, targets: Sequence[str], likeness: Callable[[str], float]) -> str | None:
    """Return a JSON answer in which one value is a correction's target; None: it has no place for it, or is no JSON.

    targets: the target, then other answers that count. likeness: how surely a question asks what the correction
    answers; "": the question that was asked. All other values stay as they are, and the answer keeps to the schema.
    """
    try:
        said = Bounds().parse(text.encode())  # a model may nest it without end
    except ValueError:
        return None
    found = _places(said, json.loads(schema), ())
    places = islice((place for place in found if ASKED.isdisjoint(place.names[-1:])), MOST_PLACES)
    ways = [(place, way) for place in places if (way := _way(text, said, schema, place, targets)) is not None]
    if len(ways) < 2:
        return ways[0][1] if ways else None
    return max(ways, key=lambda each: likeness(each[0].question))[1]


def _places(value: Any, schema: Any, path: Path, root: Any = None) -> Iterator[Place]:
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if len(path) > DEEPEST:
        return
    if isinstance(value, dict):
        known = schema.get("properties") or {}
        for key, each in value.items():
            yield from _places(each, known.get(key), (*path, key), root)
    elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        for index, each in enumerate(value):
            yield from _places(each, schema.get("items"), (*path, index), root)
    else:
        described = schema.get("description")
        yield Place(path, value, described if isinstance(described, str) else "")


def _resolved(schema: Any, root: Any) -> dict[str, Any]:
    """Return a schema, or the definition that it refers to; empty where nothing is known."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if isinstance(reference, str) and reference.startswith("#/"):
        found = root
        for key in reference[2:].split("/"):
            found = found.get(key) if isinstance(found, dict) else None
        schema = found
    return schema if isinstance(schema, dict) else {}


def _way(text: str, said: Any, schema: str, place: Place, targets: Sequence[str]) -> str | None:
    """Return the answer with a target in a place; None where the schema allows none there."""
    if place.value in targets:
        return text
    for target in targets:
        for value in _values(target, place.value):
            changed = json.dumps(_with(said, place.path, value), ensure_ascii=False)
            if keeps_to(schema, changed):
                return changed
    return None


def _values(target: str, instead_of: Any) -> Iterator[Any]:
    """Yield a target in the types in which it may stand instead of a value: as a number or a text, alone or listed."""
    if isinstance(instead_of, list):
        yield from ([each] for each in _values(target, instead_of[0] if instead_of else ""))
        return
    try:
        parsed = json.loads(target)
    except ValueError:
        parsed = None
    numbers = isinstance(parsed, int | float) and isinstance(instead_of, int | float)
    if numbers and isinstance(parsed, bool) == isinstance(instead_of, bool):
        yield parsed
    yield target


def _with(said: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, *rest = path
    copy = said.copy()
    copy[key] = _with(said[key], tuple(rest), value)
    return copy
