"""JSON: an object a line, an array, objects one after another, or an object that holds the records."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from cli.files.content import unreadable
from cli.files.formats import recognised
from cli.files.rows import Remarks, Row, Rows
from cli.files.shapes import at_path

WRITE_OBJECT = 'Write one object a line: {"prompt": …, "target": …}.'
END_OF_ARRAY = re.compile(r",\s*\]\s*\Z")
DEEPEST = 4  # levels at which an object may hold its records
SPACE = re.compile(r"[ \t\r\n,]*")
TOO_DEEP = "it is nested too deeply"


def read_json(path: Path, text: str, mapped: Mapping[str, str], remarks: Remarks) -> Rows:
    """Read JSON in any of its forms. Raises CommandError where the whole cannot be read."""
    if text.lstrip().startswith("["):
        whole = _whole(path, END_OF_ARRAY.sub("]", text))
        items = _of_lists(whole, mapped)
        return _items("JSON array", list(enumerate(items, start=1 + len(whole) - len(items))), remarks, "item")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not _is_json(lines[0][1]):
        if (found := _one_after_another(text)) is not None:
            return _of_objects(found, mapped, remarks)
    elif len(lines) == 1:
        return _of_objects([(lines[0][0], _loads(lines[0][1]))], mapped, remarks)
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


def _of_objects(found: list[tuple[int, Any]], mapped: Mapping[str, str], remarks: Remarks) -> Rows:
    """Return the records; a single object may hold them all."""
    inside = _inside(found[0][1], mapped) if len(found) == 1 else None
    if inside is not None:
        return _items("JSON object with a list of records", list(enumerate(inside, start=1)), remarks, "item")
    return _items("JSON lines" if len(found) > 1 else "JSON object", found, remarks, "line")


def _inside(value: Any, mapped: Mapping[str, str]) -> list[Any] | None:
    """Return the records that an object holds, such as {"data": [...]} or a table of pandas; None: it is a record."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"] if isinstance(row, list)]
    if value and all(isinstance(each, dict) and each for each in value.values()):
        rows = list(value.values())
        if len(rows) > 1 and all(each.keys() == rows[0].keys() and all(map(str.isdecimal, each)) for each in rows):
            return [{name: column[key] for name, column in value.items()} for key in rows[0]]
        if _are_records(rows, mapped):  # by the number or the id of each
            return rows
    if _are_records([value], mapped):
        return None
    fit = {path: found for path, found in _lists(value).items() if _are_records(found, mapped)}
    shallowest = min(map(len, fit), default=0)
    fit = {path: found for path, found in fit.items() if len(path) == shallowest}
    return next(iter(fit.values())) if len(fit) == 1 else None


def _lists(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[Any]]:
    """Return the lists of objects in an object, by the names that lead to them; those of several records as one."""
    found: dict[tuple[str, ...], list[Any]] = {}
    if not isinstance(value, dict) or len(path) >= DEEPEST:
        return found
    for name, each in value.items():
        inside = (*path, name)
        items = each if isinstance(each, list) else [each]
        if isinstance(each, list) and each and all(isinstance(item, dict) for item in each):
            found.setdefault(inside, []).extend(each)
        for item in items:
            for below, more in _lists(item, inside).items():
                found.setdefault(below, []).extend(more)
    return found


def _are_records(found: Sequence[Any], mapped: Mapping[str, str]) -> bool:
    """Return whether these objects, or the rows in them, have a prompt and a target."""
    first = _row(found[0])
    names = [*first, *(path for path in mapped.values() if at_path(first, path) is not None)]
    try:
        return recognised(names, mapped) is not None
    except CommandError:  # they are, and not clear ones
        return True


def _row(item: Any) -> Any:
    """Return the record of an item that the viewer of a data set wraps."""
    return item["row"] if isinstance(item, dict) and item.keys() >= {"row", "row_idx"} else item


def _of_lists(items: list[Any], mapped: Mapping[str, str]) -> list[Any]:
    """Return the records of an array of arrays that begins with a header; other arrays as they are."""
    if not items or not all(isinstance(each, list) for each in items):
        return items
    names = [str(name) for name in items[0]]
    return [dict(zip(names, row, strict=False)) for row in items[1:]] if recognised(names, mapped) else items


def _items(kind: str, found: list[tuple[int, Any]], remarks: Remarks, unit: str) -> Rows:
    rows = []
    for number, item in found:
        value = _row(item)
        if value is not item and item.get("truncated_cells"):
            remarks.refuse(number, "The viewer of the data set cut it off.", "Download the file of the data set.")
        elif isinstance(value, dict):
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
