"""JSON: an object a line, an array, objects one after another, or an object that holds the records."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.files.content import unreadable
from cli.files.rows import Remarks, Row, Rows
from cli.files.shapes import recognised

WRITE_OBJECT = 'Write one object a line: {"prompt": …, "target": …}.'
SPACE = re.compile(r"[ \t\r\n,]*")
TOO_DEEP = "it is nested too deeply"


def read_json(path: Path, text: str, remarks: Remarks) -> Rows:
    """Read JSON in any of its forms. Raises CommandError where the whole cannot be read."""
    if text.lstrip().startswith("["):
        return _items("JSON array", list(enumerate(_whole(path, text), start=1)), remarks, "item")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not _is_json(lines[0][1]):
        if (found := _one_after_another(text)) is not None:
            return _of_objects(found, remarks)
    elif len(lines) == 1:
        return _of_objects([(lines[0][0], _loads(lines[0][1]))], remarks)
    found = []
    for number, line in lines:
        try:
            found.append((number, _loads(line)))
        except RecursionError:
            remarks.refuse(number, TOO_DEEP, WRITE_OBJECT)
        except json.JSONDecodeError as error:
            remarks.refuse(number, f"It is not JSON at character {error.pos + 1}: {error.msg}.", WRITE_OBJECT)
        except ValueError as error:
            remarks.refuse(number, f"It is not JSON: {error}.", WRITE_OBJECT)
    return _items("JSON lines", found, remarks, "line")


def _of_objects(found: list[tuple[int, Any]], remarks: Remarks) -> Rows:
    """Return the records; a single object may hold them all."""
    inside = _inside(found[0][1]) if len(found) == 1 else None
    if inside is not None:
        return _items("JSON object with a list of records", list(enumerate(inside, start=1)), remarks, "item")
    return _items("JSON lines" if len(found) > 1 else "JSON object", found, remarks, "line")


def _inside(value: Any) -> list[Any] | None:
    """Return the records that an object holds, such as {"data": [...]} or a table of pandas; None: it is a record."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"] if isinstance(row, list)]
    if len(value) > 1 and all(isinstance(each, dict) and each for each in value.values()):
        columns = list(value.values())
        if all(each.keys() == columns[0].keys() for each in columns) and all(key.isdecimal() for key in columns[0]):
            return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    lists = [each for each in value.values() if isinstance(each, list) and each and isinstance(each[0], dict)]
    if len(lists) != 1 or recognised(list(value), {}) is not None:
        return None
    return [each["row"] if each.keys() >= {"row", "row_idx"} else each for each in lists[0] if isinstance(each, dict)]


def _items(kind: str, found: list[tuple[int, Any]], remarks: Remarks, unit: str) -> Rows:
    rows = []
    for number, value in found:
        if isinstance(value, dict):
            rows.append(Row(number, value))
        else:
            remarks.refuse(number, "It is not a JSON object.", WRITE_OBJECT)
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    return Rows(kind, rows, columns, is_table=False, unit=unit)


def _whole(path: Path, text: str) -> list[Any]:
    try:
        found = _loads(text)
    except RecursionError:
        raise unreadable(path, f"line 1: {TOO_DEEP}", "Write a JSON array of objects.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise unreadable(path, f"{place}: it is not JSON: {error.msg}", "Write a JSON array of objects.") from None
    except ValueError as error:
        raise unreadable(path, f"it is not JSON: {error}", "Write a JSON array of objects.") from None
    return found if isinstance(found, list) else [found]


def _one_after_another(text: str) -> list[tuple[int, Any]] | None:
    """Return objects that each take several lines, with the lines where they begin; None: it is not such."""
    try:
        return list(_objects(text))
    except (ValueError, RecursionError):
        return None


def _objects(text: str) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    place, line, counted = 0, 1, 0
    while (place := _end_of_space(text, place)) < len(text):
        line += text.count("\n", counted, place)
        counted = place
        value, place = decoder.raw_decode(text, place)
        yield line, value


def _end_of_space(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def _is_json(line: str) -> bool:
    try:
        _loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _loads(text: str) -> Any:
    """Parse JSON. NaN is let through: what it stands in for is told with its column. Raises ValueError."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} occurs twice")
    return found
