"""What a format of records is, and how the values that several formats nest are taken apart."""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cli.files.cells import Unusable
from cli.files.rows import Remarks

FIELDS = (
    "prompt", "target", "alternatives", "rephrases", "unchanged", "kind", "author", "reason", "source", "replaces",
)  # fmt: skip
QUESTIONS = ("question", "query", "prompt", "instruction", "input", "text", "message", "content")
ANSWERS = ("corrected_output", "answer", "output", "response", "text", "content", "value")
LABELS = ("label", "kto_tag")
UNDESIRED = ("false", "undesirable", "rejected", "bad")

Fields = Mapping[str, Any]  # by normal names
Values = dict[str, tuple[str, Any]]  # by an edit's field: the column that it comes from, and what stands there
Read = Callable[[Fields, Remarks, int], Iterable[Values]]


@dataclass(frozen=True)
class Shape:
    """A format: its name, how a record becomes edits, and the columns that are read."""

    name: str
    read: Read
    used: frozenset[str]  # normal names
    told: Mapping[str, str]  # for people: an edit's field, and what it is read from
    is_own: bool = False


def shape(name: str, read: Read, told: Mapping[str, str], *more: str) -> Shape:
    """Return a format. more: columns that are read besides those that are told."""
    used = {part.split(".")[0] for each in told.values() for part in each.split(", ")}
    return Shape(name, read, frozenset(used | set(more)), told)


def described(found: Shape) -> Iterator[str]:
    """Yield, for people, what each field of an edit is read from."""
    for field, name in found.told.items():
        yield f"{field} ← {name}"


def normal(name: str) -> str:
    """Return a column's name without case, spaces and punctuation: corrected_output for correctedOutput."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"\W+", "_", parted.casefold()).strip("_")


def normal_fields(value: Any) -> Fields:
    return {normal(str(name)): each for name, each in as_mapping(value).items()}


def parsed(value: Any) -> Any:
    """Return what a cell's JSON says, or the lists and objects that Python wrote; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                return read(value.strip())
    return value


def as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def at_path(record: Any, path: str) -> Any:
    """Return what a record nests under a dotted path; of a list, its numbered item, else the only or first one."""
    for name in path.split("."):
        if isinstance(record, list):
            if not name.isdecimal():
                record = record[0] if record else None
            elif int(name) < len(record):
                record = record[int(name)]
                continue
            else:
                return None
        if not isinstance(record, Mapping):
            return None
        record = record[name] if name in record else normal_fields(record).get(normal(name))
    return record


def paths(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a record's fields; dotted paths to the texts that are nested in them."""
    for name, value in record.items():
        inside = value[0] if isinstance(value, list) and value else value
        if isinstance(inside, Mapping) and inside:
            index = ".0" if isinstance(value, list) else ""
            yield from (f"{name}{index}.{path}" for path in paths(inside))
        else:
            yield name


def is_undesired(fields: Fields, *, numbers: bool = True) -> bool:
    """Return whether a record says, as KTO's do, that its answer is a bad one. numbers: 0 says so, too."""
    label = next((fields[name] for name in LABELS if fields.get(name) is not None), None)
    said = str(label).strip().casefold()
    return said in UNDESIRED or (numbers and said in ("0", "0.0"))


def words(value: Any) -> Any:
    """Return the text of a message or of its parts; other values as they are. Raises Unusable for an image."""
    if isinstance(value, Mapping):
        inside = next((value[name] for name in ("content", "value", "parts", "text") if value.get(name)), value)
        return inside if inside is value else words(inside)
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        if not all(isinstance(each.get("text"), str) for each in value):
            kinds = (str(each.get("type", "a part")) for each in value if not isinstance(each.get("text"), str))
            raise Unusable(f"holds {next(kinds)} beside text", "Write a correction of text alone.")
        return "\n".join(each["text"] for each in value)
    return value


def named_value(value: Any, names: Iterable[str]) -> Any:
    """Return the text that an object holds under one of these names, or its only one; other values as they are."""
    if not isinstance(value, Mapping):
        return value
    inside = normal_fields(value)
    found = next((inside[name] for name in names if isinstance(inside.get(name), str | list) and inside[name]), None)
    if found is None and len(inside) == 1 and isinstance(only := next(iter(inside.values())), str):
        return only
    return value if found is None else found
