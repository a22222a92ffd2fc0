"""Tables: their header, wherever it stands, and rows of cells from CSV, a workbook or Parquet."""

import csv
import io
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from cli.files.content import any_of, name_of, no_edits
from cli.files.rows import Remarks, Row, Rows

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n?$', re.IGNORECASE)
RULE = re.compile(r":?-{2,}:?")
HEADER_WITHIN = 20  # rows: titles may stand above it
LONGEST_NAME = 40  # characters, of a column
LONGEST_CELL = 2**20  # characters; csv's own limit is 131,072

IsHeader = Callable[[Sequence[str]], bool]
Style = dict[str, Any]  # arguments of csv.reader
APOSTROPHE: Style = {"quotechar": "'"}
APOSTROPHES = re.compile(r"\A.*\n'.*'\s*$", re.MULTILINE)  # the second line begins and ends with one
SPACED: Style = {"skipinitialspace": True}  # "a", "b"
BACKSLASHES: Style = {"escapechar": "\\", "doublequote": False}
UNQUOTED: Style = {"quoting": csv.QUOTE_NONE}
Numbered = tuple[int, Sequence[Any]]  # a line or row, and its cells


def read_csv(path: Path, text: str, is_header: IsHeader, remarks: Remarks) -> Rows:
    """Read a text with any of the usual separators. Raises CommandError where it has no header."""
    lines = text.split("\n", 1)
    told = SEPARATOR_LINE.match(lines[0])
    first_line = 1
    if told and len(lines) > 1:
        first_line, text = 2, lines[1]
    csv.field_size_limit(LONGEST_CELL)
    separator = _most_likely(text, is_header, told[1] if told else None)
    style = _style(text, separator, remarks)
    cells = list(_parsed(text, separator, first_line, remarks, style))
    kind = f"CSV with {SEPARATORS.get(separator, repr(separator))}"
    return rows_of(path, kind, _without_comments(cells, is_header, remarks), is_header, remarks, "line")


def rows_of(path: Path, kind: str, cells: Iterable[Numbered], is_header: IsHeader, remarks: Remarks, unit: str) -> Rows:
    """Return the rows below the header. Raises CommandError where there is none."""
    filled = [(line, row) for line, row in cells if any(not _is_blank(cell) for cell in row)]
    heads = [(at, _without_end([_name(cell) for cell in row])) for at, (_, row) in enumerate(filled[:HEADER_WITHIN])]
    at, columns = next(((at, names) for at, names in heads if is_header(names)), (None, []))
    if not filled:
        if remarks.problem_count:
            return Rows(kind, [], [], is_table=True, unit=unit)
        raise no_edits(path)
    if at is None:
        raise _no_header(path, filled, unit)
    if at:
        remarks.note(f"The header stands in {unit} {filled[at][0]}; what stands above it was ignored.")
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice:
        raise CommandError(
            "The table's header is wrong",
            f"{name_of(path)}, {unit} {filled[at][0]}: the column {twice!r} occurs twice.",
            "Give each column a name of its own.",
        )
    rows = []
    for number, (line, row) in enumerate(filled[at + 1 :]):
        if not number and all(RULE.fullmatch(str(cell).strip()) for cell in row if not _is_blank(cell)):
            continue  # the line below the header of a table in Markdown
        if _without_end([_name(cell) for cell in row]) == columns:
            remarks.note("Headers that are repeated were left out", line)
        elif len(row) != len(columns) and any(not _is_blank(cell) for cell in row[len(columns) :]):
            remarks.refuse(
                line,
                f"It has {len(row)} cells where the header has {len(columns)}.",
                "Put cells that hold the separator into quotes.",
            )
        elif len(row) < len(columns):
            remarks.refuse(
                line,
                f"It has only {len(row)} of the header's {len(columns)} cells.",
                "Write every cell, or leave it empty.",
            )
        else:
            rows.append(Row(line, {name: cell for name, cell in zip(columns, row, strict=False) if name}))
    named = [name for name in columns if name]
    return Rows(kind, rows, named, is_table=True, unit=unit)


def _most_likely(text: str, is_header: IsHeader, told: str | None) -> str:
    """Return the separator under which a header is found, first the one that is told, then of the most columns."""
    start = "\n".join(text.split("\n", HEADER_WITHIN + 1)[: HEADER_WITHIN + 1])

    def found(separator: str) -> tuple[bool, bool, int]:
        rows = _parsed(start, separator, 1, Remarks())
        heads = [[_name(cell) for cell in row] for _, row in rows]
        return any(is_header(head) for head in heads), separator == told, len(heads[0]) if heads else 0

    return max([*SEPARATORS, *([told] if told and told not in SEPARATORS else [])], key=found)


def _without_comments(cells: list[Numbered], is_header: IsHeader, remarks: Remarks) -> list[Numbered]:
    """Leave out lines that begin with #, where one of them is plainly a comment: nothing else stands in it."""

    def is_marked(row: Sequence[Any]) -> bool:
        return bool(row) and str(row[0]).lstrip("\ufeff ").startswith("#") and not is_header([_name(c) for c in row])

    marked = [line for line, row in cells if is_marked(row)]
    if not any(is_marked(row) and all(map(_is_blank, row[1:])) for _, row in cells):
        return cells
    for line in marked:
        remarks.note("Lines that begin with # were left out as comments", line)
    return [(line, row) for line, row in cells if not is_marked(row)]


def _style(text: str, separator: str, remarks: Remarks) -> Style:
    """Return how cells are quoted: as usual, unless the text is a table only if they are quoted otherwise."""
    if text.lstrip()[:1] == "'" or (APOSTROPHES.search(text) and _is_table(text, separator, APOSTROPHE)):
        return APOSTROPHE
    if separator != "\t" and f'{separator} "' in text and _is_table(text, separator, SPACED):
        return SPACED
    if _is_table(text, separator, {}):
        return {}
    if '\\"' in text and _is_table(text, separator, BACKSLASHES):
        remarks.note("Quotes within its cells are written with a backslash.")
        return BACKSLASHES
    if separator == "\t" and _is_table(text, separator, UNQUOTED):
        remarks.note("Its cells are not quoted: quotes are taken as they stand.")
        return UNQUOTED
    return {}


def _is_table(text: str, separator: str, style: Style) -> bool:
    """Return whether the text can be read, with rows of one width."""
    remarks = Remarks()
    widths = {len(row) for _, row in _parsed(text, separator, 1, remarks, style) if any(row)}
    return not remarks.problem_count and len(widths) <= 1


def _parsed(
    text: str, separator: str, first_line: int, remarks: Remarks, style: Style | None = None
) -> Iterator[Numbered]:
    """Yield the rows, each with the line where it begins."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **(style or {}))
    while True:
        line = first_line + rows.line_num
        try:
            yield line, next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            remarks.refuse(line, f"It is not CSV: {error}.", "Check its quotes: what follows was not read.")
            return


def _without_end(names: list[str]) -> list[str]:
    """Return a header without the empty cells at its end."""
    while names and not names[-1]:
        names = names[:-1]
    return names


def _no_header(path: Path, filled: Sequence[Numbered], unit: str) -> CommandError:
    line, first = filled[0]
    seen = [_name(cell) for cell in first if not _is_blank(cell)]
    are_names = len(seen) == 2 and all(len(name) < LONGEST_NAME and name[-1] not in ".?!" for name in seen)
    prompt, target = seen if are_names else ("COLUMN", "COLUMN")
    return CommandError(
        "The table has no header that is known",
        f"{name_of(path)}, {unit} {line}: its columns are {any_of(seen)}; a prompt and a target are needed.",
        "Write a header with prompt and target (or question and answer), or say which columns these are: "
        f"--map prompt={shlex.quote(prompt)} --map target={shlex.quote(target)}.",
    )


def _name(cell: Any) -> str:
    return "" if _is_blank(cell) else " ".join(str(cell).replace("\ufeff", "").split())


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip().strip("\ufeff"))
