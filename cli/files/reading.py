"""A file of edits, whatever wrote it: its kind is told by its content, its format by its fields, its values cleaned.

What is read is told: the format, which column became which field, what was ignored, what was cleaned, and every row
that cannot be taken, by its line and column.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from cli.files.archives import ZIP, unpacked
from cli.files.cells import WHOLE_FLOAT, Cells, Unusable, listed
from cli.files.content import any_of, bytes_of, name_of, no_edits, require_readable, text_of, unreadable
from cli.files.documents import read_json
from cli.files.formats import recognised
from cli.files.parquet import read_parquet
from cli.files.rows import Remarks, Row, Rows
from cli.files.shapes import FIELDS, Shape, Values, at_path, described, normal, paths
from cli.files.tables import read_csv
from cli.files.workbooks import read_workbook

INDEX = re.compile(r"(unnamed_\d+|index|level_\d+|index_level_\d+|row_idx|line)?$")
PIECE = 64 * 1024  # bytes
PREVIEWED = 5  # edits
EXPORTED = frozenset(FIELDS) - {"replaces"}  # the fields that `melo edit export` writes
SEVERAL = ("alternatives", "rephrases", "unchanged")


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of a file."""

    mapped: Mapping[str, str] = field(default_factory=dict)  # an edit's field: the column's name
    encoding: str | None = None
    sheet: str | None = None
    kind: str | None = None  # of edits that do not say theirs
    as_is: bool = False  # texts that look like a program's leftovers are meant


@dataclass
class EditFile:
    """The edits of a file, as they are sent: NDJSON, each with the `line` where it stands."""

    name: str
    kind: str  # such as "CSV with semicolons, UTF-8"
    format: str  # such as "Alpaca"
    columns: Mapping[str, str]  # an edit's field: what it was read from
    told: str  # the same in words
    unit: str  # what `line` counts: line, row or item
    remarks: Remarks
    ignored: Sequence[str] = ()
    lines: list[bytes] = field(default_factory=list)
    first: list[dict[str, Any]] = field(default_factory=list)  # for a preview

    @property
    def size(self) -> int:
        return sum(map(len, self.lines))

    @property
    def notes(self) -> list[str]:
        return self.remarks.notes(self.unit)

    def chunks(self, advance: Callable[[int], None]) -> Iterator[bytes]:
        """Yield the edits as NDJSON, in pieces. advance: called with the bytes of each."""
        piece: list[bytes] = []
        for line in self.lines:
            piece.append(line)
            if len(piece) * len(line) > PIECE:
                yield (whole := b"".join(piece))
                advance(len(whole))
                piece.clear()
        if piece:
            yield (whole := b"".join(piece))
            advance(len(whole))

    def placed(self, problem: Mapping[str, Any]) -> dict[str, Any]:
        """Return a problem with its place in words, and the name of the column in place of the edit's field."""
        column = str(problem.get("field") or "")
        named, _, rest = column.partition(".")
        shown = self.columns.get(named, named) + (f".{rest}" if rest else "")
        place = f"{self.unit} {problem['line']}" if problem.get("line") else None
        return dict(problem) | ({"place": place} if place else {}) | ({"field": shown} if column else {})


def open_edits(path: Path, options: ReadOptions) -> EditFile:
    """Read a file; - is the standard input. Raises CommandError where it cannot be read as a whole."""
    remarks = Remarks()
    rows, encoding = _rows(path, bytes_of(path), options, remarks)
    rows = _with_paths(rows, options.mapped)
    shape = recognised(rows.columns, options.mapped) if rows.rows else None
    if not rows.rows:
        if not remarks.problem_count:
            raise no_edits(path)
        shape = recognised(("prompt", "target"), {})
    if shape is None:
        raise _unrecognised(path, rows, options)
    file_format = _named(shape, rows)
    used = {*shape.used, *map(normal, options.mapped.values())}
    unused = [name for name in rows.columns if normal(name) not in used] if rows.rows else []
    ignored = [name for name in unused if not INDEX.match(normal(name))]
    if ignored:
        remarks.note(f"Ignored: {any_of(ignored)}.")
    file = EditFile(
        name_of(path), rows.kind + (f", {encoding}" if encoding else ""), file_format, shape.told,
        ", ".join(described(shape)), rows.unit, remarks, ignored,
    )  # fmt: skip
    cells = Cells(remarks, rows.is_table, options.as_is or _is_export(shape, rows), _whole_columns(rows))
    for record in _records(rows, shape, cells, options):
        file.lines.append(json.dumps(record).encode() + b"\n")
        if len(file.first) < PREVIEWED:
            file.first.append(record)
    if not file.lines and not remarks.problem_count:
        notes = " ".join(file.notes)
        raise CommandError("The file holds no edits", f"{name_of(path)}: {notes}", "Give a file with corrections.")
    return file


def _rows(path: Path, content: bytes, options: ReadOptions, remarks: Remarks) -> tuple[Rows, str]:
    """Return the rows, and the encoding of a text."""

    def is_header(names: Sequence[str]) -> bool:
        try:
            return recognised([name for name in names if name], options.mapped) is not None
        except CommandError:  # it is one, and not a clear one
            return True

    content, packed = unpacked(path, content)
    if packed:
        remarks.note(f"It was unpacked ({packed}).")
    if options.sheet is not None and not content.startswith(ZIP):
        raise unreadable(path, "it is no workbook, and has no sheets", "Leave --sheet out.")
    if content.startswith(ZIP):
        return read_workbook(path, content, options.sheet, is_header, remarks), ""
    if content.startswith(b"PAR1"):
        return read_parquet(path, content), ""
    require_readable(path, content)
    text = text_of(path, content, options.encoding)
    if text.note:
        remarks.note(text.note)
    if text.text.lstrip()[:1] in ("{", "[") or path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return read_json(path, text.text, options.mapped, remarks), text.encoding
    return read_csv(path, text.text, is_header, remarks), text.encoding


def _records(rows: Rows, shape: Shape, cells: Cells, options: ReadOptions) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()  # MQuAKE tells a fact once for every question that needs it
    others: dict[tuple[str, ...], Shape] = {}
    for row in rows.rows:
        fields = _by_normal_name(row)
        try:
            reader = shape if rows.is_table or options.mapped else _shape_of(row, fields, shape, others)
            found = list(reader.read(fields, cells.remarks, row.line))
        except Unusable as error:
            cells.remarks.refuse(row.line, f"It {error.why}.", error.remedy)
            continue
        for values in found:
            record = _record(row.line, values, cells, options)
            if record is None:
                continue
            if shape.name == "MQuAKE":
                same = json.dumps({**record, "line": 0})
                if same in seen:
                    cells.remarks.note("Facts that stand in several records were taken once")
                    continue
                seen.add(same)
            yield record


def _shape_of(row: Row, fields: Mapping[str, Any], shape: Shape, others: dict[tuple[str, ...], Shape]) -> Shape:
    """Return the format of a record: the file's, or another one where it has none of the columns of its prompt.

    others: those that were found already, by the names of the record's fields.
    """
    if any(normal(name.split(".")[0]) in fields for name in shape.told["prompt"].split(", ")):
        return shape
    names = tuple(row.fields)
    if names not in others:
        try:
            others[names] = recognised(names, {}) or shape
        except CommandError as error:
            raise Unusable(f"is not clear: {error.detail}", error.remedy) from None
    return others[names]


def _with_paths(rows: Rows, mapped: Mapping[str, str]) -> Rows:
    """Return the rows with the values that the user names by their dotted paths as fields of their own."""
    new = [name for name in mapped.values() if "." in name and name not in rows.columns]
    new = [name for name in new if any(at_path(row.fields, name) is not None for row in rows.rows)]
    if rows.is_table or not new:
        return rows
    found = [Row(row.line, row.fields | {name: at_path(row.fields, name) for name in new}) for row in rows.rows]
    return replace(rows, rows=found, columns=[*rows.columns, *new])


def _record(line: int, values: Values, cells: Cells, options: ReadOptions) -> dict[str, Any] | None:
    """Return an edit as the registry takes it; None where a value cannot be taken, which is then noted."""
    kind = _kind(values, options)
    record: dict[str, Any] = {"line": line}
    before = cells.remarks.problem_count
    for name in FIELDS:
        column, value = values.get(name, (name, None))
        try:
            if name in SEVERAL:
                record[name] = [*record.get(name, ()), *cells.several(line, column, value)]
            elif name == "replaces":
                record[name] = cells.number(value)
            elif name == "kind":
                record[name] = kind
            elif name == "target":
                record |= _targets(line, column, value, cells)
            elif name == "prompt":
                record[name] = _needed(cells.text(line, column, value, keeps_start=kind == "completion"))
            else:
                record[name] = cells.optional(line, column, value)
        except Unusable as error:
            cells.remarks.refuse(line, f"Its {name} {error.why}.", error.remedy, column)
    if cells.remarks.problem_count > before:
        return None
    record["alternatives"] = [text for text in dict.fromkeys(record["alternatives"]) if text != record["target"]]
    record["rephrases"] = [text for text in record["rephrases"] if text != record["prompt"]]
    return {name: value for name, value in record.items() if value not in (None, "", [])}


def _targets(line: int, column: str, value: Any, cells: Cells) -> dict[str, Any]:
    """Return the target and, where it is a list of answers, the others, which count as right too."""
    if isinstance(value, str) and cells.is_table and not cells.as_is:
        found: Any = listed(value)
    else:
        found = value if isinstance(value, list | tuple) else None
    if found is None:
        return {"target": _needed(cells.text(line, column, value))}
    texts = cells.several(line, column, found)
    if not texts:
        raise Unusable("is empty", "Fill it in.")
    if len(texts) > 1:
        cells.remarks.note("Of several answers, the first is trained, and all count as right", line)
    return {"target": texts[0], "alternatives": texts[1:]}


def _needed(text: str) -> str:
    if not text.strip():
        raise Unusable("is empty", "Fill it in.")
    return text


def _kind(values: Values, options: ReadOptions) -> str:
    if options.kind is not None:
        return options.kind
    value = values.get("kind", ("", None))[1]
    return str(value).strip().casefold() if isinstance(value, str) else ""


def _by_normal_name(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.fields.items():
        found.setdefault(normal(str(name)), value)
    return found


def _whole_columns(rows: Rows) -> frozenset[str]:
    """Return the columns of a table whose cells are all numbers that end in .0: they were integers once."""
    if not rows.is_table:
        return frozenset()

    def is_whole(name: str) -> bool:
        texts = [text for row in rows.rows if isinstance(text := row.fields.get(name), str) and text.strip()]
        return bool(texts) and all(WHOLE_FLOAT.fullmatch(text.strip()) for text in texts)

    return frozenset(filter(is_whole, rows.columns))


def _named(shape: Shape, rows: Rows) -> str:
    """Return the format's name; EasyEdit's holds several data sets, which its case ids name."""
    first = str(rows.rows[0].fields.get("case_id", "")) if rows.rows else ""
    known = {"zsre": "zsRE", "counterfact": "CounterFact"}
    data_set = next((name for start, name in known.items() if first.casefold().startswith(start)), None)
    return f"{data_set} in the form of {shape.name}" if data_set and shape.name == "EasyEdit" else shape.name


def _is_export(shape: Shape, rows: Rows) -> bool:
    """Return whether `melo edit export` wrote it: its texts stand in the record and are taken as they are."""
    return shape.is_own and set(rows.columns) >= EXPORTED


def _unrecognised(path: Path, rows: Rows, options: ReadOptions) -> CommandError:
    first: Mapping[str, Any] = rows.rows[0].fields if rows.rows and not rows.is_table else dict.fromkeys(rows.columns)
    seen = any_of(list(paths(first)), most=16) or "none"
    absent = [name for name in options.mapped.values() if normal(name) not in {normal(c) for c in rows.columns}]
    what = f"it has no {absent[0]!r}; it has {seen}" if absent else f"its fields are {seen}"
    return CommandError(
        "The format is not known",
        f"{name_of(path)}: {what}.",
        "Say which fields are meant: --map prompt=FIELD --map target=FIELD.",
    )


def mapping(given: Iterable[str]) -> dict[str, str]:
    """Parse FIELD=COLUMN. Raises CommandError."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, column = each.partition("=")
        if not equals or not column.strip() or name.strip() not in FIELDS:
            raise CommandError(
                "The mapping is not clear",
                f"--map {each} does not say which column becomes which field.",
                f"Write --map prompt=Question; the fields are {', '.join(FIELDS)}.",
            )
        found[name.strip()] = column.strip()
    return found
