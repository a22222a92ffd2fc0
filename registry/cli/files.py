"""Files of edits: JSONL and CSV, read to the end so that every broken line is named at once."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.cli.errors import CommandError

COLUMNS = (
    "prompt", "target", "rephrases", "unchanged", "kind", "author", "reason", "source", "replaces",
)  # fmt: skip
SEVERAL = ("rephrases", "unchanged")  # a cell holds one a line, or a JSON list


@dataclass
class EditFile:
    """The records that could be read, each with its `line`, and a problem for each that could not."""

    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def broken(self, line: int, detail: str, remedy: str) -> None:
        self.problems.append({"line": line, "code": "broken-line", "detail": detail, "remedy": remedy})


def read_edits(path: Path) -> EditFile:
    """Read a .jsonl or .csv file. Raises CommandError where it cannot be read as one at all."""
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CommandError(
            "Unknown kind of file",
            f"{path} ends neither in .jsonl nor in .csv.",
            "Write one JSON object a line (.jsonl), or a table with a header (.csv).",
        )
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise CommandError("The file cannot be read", f"{path}: {error.strerror}.", "Check its name.") from None
    return reader(path, content)


def _read_jsonl(path: Path, content: bytes) -> EditFile:
    file = EditFile()
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode(), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            file.broken(number, f"it is not UTF-8 at byte {error.start + 1}", "Save the file as UTF-8.")
        except RecursionError:
            file.broken(number, "it is nested too deeply", "Write one flat JSON object.")
        except ValueError as error:
            file.broken(number, f"it is not JSON: {error}", 'Write one object a line: {"prompt": …, "target": …}.')
        else:
            if isinstance(record, dict):
                file.records.append({**record, "line": number})
            else:
                file.broken(number, "it is not a JSON object", 'Write {"prompt": …, "target": …}.')
    return file


def _read_csv(path: Path, content: bytes) -> EditFile:
    file = EditFile()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CommandError(
            "The file is not UTF-8", f"{path}, line {line}: a byte is not UTF-8.", "Save it as UTF-8."
        ) from None
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = _header(path, rows)
    first_line = rows.line_num + 1  # a row may span several lines: its first one names it
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return file
        except csv.Error as error:
            file.broken(first_line, f"it is not CSV: {error}", "Check its quotes: what follows was not read.")
            return file
        line, first_line = first_line, rows.line_num + 1
        if not any(value.strip() for value in row):
            continue
        if len(row) != len(header):
            file.broken(
                line,
                f"it has {len(row)} cells where the header has {len(header)}",
                "Put cells that hold commas into quotes.",
            )
            continue
        _take(file, line, dict(zip(header, row, strict=True)))


def _header(path: Path, rows: Any) -> list[str]:
    try:
        header = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise CommandError("The file is not CSV", f"{path}, line 1: {error}.", "Check its quotes.") from None
    unknown = sorted(set(header) - set(COLUMNS))
    missing = sorted({"prompt", "target"} - set(header))
    if unknown or missing or len(set(header)) != len(header):
        what = (
            f"it has no column {missing[0]}"
            if missing
            else f"its column {unknown[0]!r} is unknown"
            if unknown
            else "a column occurs twice"
        )
        raise CommandError(
            "The table's header is wrong",
            f"{path}, line 1: {what}.",
            f"The columns are {', '.join(COLUMNS)}; prompt and target are needed.",
        )
    return header


def _take(file: EditFile, line: int, cells: dict[str, str]) -> None:
    record: dict[str, Any] = {"line": line}
    for name, value in cells.items():
        if name in SEVERAL:
            texts = _several(value)
            if texts is None:
                file.broken(line, f"its {name} are not a JSON list", "Write one a line, or a JSON list.")
                return
            record[name] = texts
        elif name == "replaces" and value.strip():
            if not value.strip().isdecimal():
                file.broken(line, f"its replaces is {value!r}", "Write the number of the edit it replaces.")
                return
            record[name] = int(value)
        elif name in ("prompt", "target") or value.strip():
            record[name] = value
    file.records.append(record)


def _several(value: str) -> list[Any] | None:
    if value.lstrip().startswith("["):
        try:
            texts = json.loads(value)
        except ValueError:
            return None
        return texts if isinstance(texts, list) else None
    return [line.strip() for line in value.splitlines() if line.strip()]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
