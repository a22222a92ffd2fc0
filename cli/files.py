"""Files of edits, JSONL and CSV, sent to the registry; and text files with one prompt a line."""

import csv
import json
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cli.errors import CommandError

COLUMNS = (
    "prompt", "target", "rephrases", "unchanged", "kind", "author", "reason", "source", "replaces",
)  # fmt: skip
MOST_PROBLEMS = 1_000  # listed; the others are counted
PIECE = 64 * 1024  # bytes
SEVERAL = ("rephrases", "unchanged")  # a cell holds one value a line, or a JSON list


Broken = Callable[[int, str, str], None]  # a line, what is wrong with it, what to do
Advance = Callable[[int], None]  # by so many bytes of the file


@dataclass
class EditFile:
    """A file of edits that is sent as NDJSON while it is read, so that its size does not matter.

    A JSONL file is sent unchanged, and the registry names its invalid lines. A table's rows become lines, each with the
    `line` of the file where it begins; invalid rows are named here.
    """

    path: Path
    problems: list[dict[str, Any]] = field(default_factory=list)  # the first ones
    problem_count: int = 0
    rows: int | None = None  # of a table: those that can be sent
    size: int = 0  # bytes

    @property
    def is_table(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def chunks(self, advance: Advance) -> Iterator[bytes]:
        """Yield NDJSON from the start of the file."""
        yield from _rows(self.path, _ignore, advance) if self.is_table else _pieces(self.path, advance)

    def note(self, line: int, detail: str, remedy: str) -> None:
        self.problem_count += 1
        if self.problem_count <= MOST_PROBLEMS:
            self.problems.append({"line": line, "code": "broken-line", "detail": detail, "remedy": remedy})


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text that are not blank; - is the standard input. Raises CommandError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(
            "The file cannot be read", f"{path}: {why}.", "Check its name; it is text in UTF-8."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def open_edits(path: Path) -> EditFile:
    """Open a .jsonl or .csv file; a table is first read once to find its invalid rows. Raises CommandError."""
    file = EditFile(path)
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise CommandError(
            "Unknown kind of file",
            f"{path} ends in neither .jsonl nor .csv.",
            "Write one JSON object a line (.jsonl), or a table with a header (.csv).",
        )
    with _opened(path) as content:
        file.size = os.fstat(content.fileno()).st_size
    if file.is_table:
        file.rows = sum(1 for _ in _rows(path, file.note, _ignore))
        if not file.rows and not file.problems:
            raise CommandError("The file is empty", f"{path} holds no edits.", "Write at least one.")
    return file


def _opened(path: Path) -> BinaryIO:
    """Open a file, skipping the byte order mark with which some programs begin a UTF-8 file."""
    try:
        content = path.open("rb")
        if content.read(len(BOM_UTF8)) != BOM_UTF8:
            content.seek(0)
        return content
    except OSError as error:
        raise CommandError("The file cannot be read", f"{path}: {error.strerror}.", "Check its name.") from None


def _pieces(path: Path, advance: Advance) -> Iterator[bytes]:
    with _opened(path) as content:
        while piece := content.read(PIECE):
            advance(len(piece))
            yield piece


def _rows(path: Path, broken: Broken, advance: Advance) -> Iterator[bytes]:
    """Yield a table's rows as lines of NDJSON."""
    with _opened(path) as content:
        rows = csv.reader(_decoded(path, content, advance), strict=True)
        header = _header(path, rows)
        first_line = rows.line_num + 1  # a row may span several lines and is named by its first
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                broken(first_line, f"it is not CSV: {error}", "Check its quotes: what follows was not read.")
                return
            line, first_line = first_line, rows.line_num + 1
            if not any(value.strip() for value in row):
                continue
            if len(row) != len(header):
                broken(
                    line,
                    f"it has {len(row)} cells where the header has {len(header)}",
                    "Put cells that hold commas into quotes.",
                )
                continue
            record = _record(line, dict(zip(header, row, strict=True)), broken)
            if record is not None:
                yield json.dumps(record).encode() + b"\n"


def _decoded(path: Path, content: BinaryIO, advance: Advance) -> Iterator[str]:
    for number, line in enumerate(content, start=1):
        advance(len(line))
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise CommandError(
                "The file is not UTF-8", f"{path}, line {number}: a byte is not UTF-8.", "Save it as UTF-8."
            ) from None


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


def _record(line: int, cells: dict[str, str], broken: Broken) -> dict[str, Any] | None:
    record: dict[str, Any] = {"line": line}
    for name, value in cells.items():
        if name in SEVERAL:
            texts = _several(value)
            if texts is None:
                broken(line, f"its {name} are not a JSON list", "Write one a line, or a JSON list.")
                return None
            record[name] = texts
        elif name == "replaces" and value.strip():
            if not value.strip().isdecimal():
                broken(line, f"its replaces is {value!r}", "Write the number of the edit it replaces.")
                return None
            record[name] = int(value)
        elif name in ("prompt", "target") or value.strip():
            record[name] = value
    return record


def _several(value: str) -> list[Any] | None:
    if value.lstrip().startswith("["):
        try:
            texts = json.loads(value)
        except ValueError:
            return None
        return texts if isinstance(texts, list) else None
    return [line.strip() for line in value.splitlines() if line.strip()]


def _ignore(*_: object) -> None:
    """Ignore all arguments: the callback of a caller that needs no report."""
