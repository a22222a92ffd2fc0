"""Excel workbooks (.xlsx): the cells as a reader of the workbook sees them."""

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import CommandError
from cli.files.content import AS_CSV, MOST_BYTES, any_of, too_large, unreadable
from cli.files.rows import Remarks, Rows
from cli.files.tables import HEADER_WITHIN, IsHeader, Numbered, rows_of
from registry.edits.schemas import MOST_EDITS

if TYPE_CHECKING:
    from openpyxl.workbook.workbook import Workbook

MOST_COLUMNS = 500
MOST_ROWS = 2 * MOST_EDITS  # empty ones among them
WRITE_TEXT = "Write it as text: in Excel, with an apostrophe before it."
# A number's format: digits between texts, such as "€" or [$€-407]; \ quotes a character, and _ leaves its width free.
SHOWN = r"""(?:"[^"]*"|\\.|\[\$[^\]-]*(?:-[0-9A-Fa-f]+)?\]|_.|[$€£¥ ])*"""
FORMAT = re.compile(
    rf"(?P<before>{SHOWN})(?P<grouped>#,##)?(?P<digits>0+)(?:\.(?P<decimals>0+))?(?P<percent>%)?(?P<after>{SHOWN})$"
)
LITERAL = re.compile(r'"([^"]*)"|\\(.)|\[\$([^\]-]*)(?:-[0-9A-Fa-f]+)?\]|_(.)')
HIDDEN_ROW = re.compile(rb"<row\b[^>]*\bhidden=\"(?:1|true)\"[^>]*>")
ROW_NUMBER = re.compile(rb"\br=\"(\d+)\"")
CONTROL = re.compile(r"_x([0-9A-F]{4})_")  # as Excel writes a control character


class Formatted(str):
    """A number's text, as its format shows it."""


class Unread:
    """A cell whose text cannot be told."""

    def __init__(self, why: str, remedy: str) -> None:
        self.why, self.remedy = why, remedy


def read_workbook(path: Path, content: bytes, sheet: str | None, is_header: IsHeader, remarks: Remarks) -> Rows:
    """Read one sheet. sheet: its name; None: the first that has a header. Raises CommandError."""
    _require_small(path, content)
    import openpyxl

    try:
        # Once for what formulas came to, and once to find those that were never computed.
        values = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        formulas = openpyxl.load_workbook(io.BytesIO(content), read_only=True)
        rows, name = _chosen(path, values, formulas, sheet, is_header, remarks)
        return _shown(rows, _hidden_rows(content, values[name]), remarks)
    except CommandError:
        raise
    except Exception as error:  # openpyxl raises whatever its parsers do
        raise unreadable(path, f"it is not a whole workbook: {error}", AS_CSV) from None


def _chosen(
    path: Path, values: "Workbook", formulas: "Workbook", sheet: str | None, is_header: IsHeader, remarks: Remarks
) -> tuple[Rows, str]:
    """Return the rows of a sheet, and its name."""
    names = [each.title for each in values.worksheets if each.sheet_state == "visible"]
    if sheet is not None and sheet not in names:
        raise unreadable(path, f"it has no sheet {sheet!r}; its sheets are {any_of(names)}", "Name one with --sheet.")
    refusal: CommandError | None = None
    for name in [sheet] if sheet is not None else names:
        found = Remarks()
        cells = list(_cells(path, values[name], formulas[name]))
        try:
            rows = rows_of(path, f"Excel workbook, sheet {name!r}", cells, is_header, found, "row")
        except CommandError as error:
            refusal = refusal or error
            continue
        for note in found.notes("row"):
            remarks.note(note)
        for problem in found.problems:
            remarks.refuse(problem["line"], problem["detail"], problem["remedy"])
        if sheet is None and len(names) > 1:
            others = [each for each in names if each != name]
            remarks.note(f"Of its sheets, {name!r} was read, and not {any_of(others)}: --sheet names another.")
        return rows, name
    raise refusal or unreadable(path, "it has no sheet", AS_CSV)


def _shown(rows: Rows, hidden: set[int], remarks: Remarks) -> Rows:
    """Return the rows without the hidden ones, which are refused: whether they are meant cannot be told."""
    for row in rows.rows:
        if row.line in hidden:
            remarks.refuse(
                row.line, "It is hidden, by a filter or by hand.", "Show all rows, or delete those not meant."
            )
    return replace(rows, rows=[row for row in rows.rows if row.line not in hidden])


def _cells(path: Path, values: Any, formulas: Any) -> Iterator[Numbered]:
    for each in (values, formulas):
        each.reset_dimensions()  # those that the file declares may be wrong
    # As wide as its header: every row is filled up to that width.
    start = values.iter_rows(max_col=MOST_COLUMNS, max_row=HEADER_WITHIN, values_only=True)
    width = max((at for row in start for at, value in enumerate(row, start=1) if value is not None), default=1)
    pairs = zip(values.iter_rows(max_col=width), formulas.iter_rows(max_col=width, values_only=True), strict=False)
    blank: Any = None  # the row that stands for all those that are not in the file
    filled = 0
    for number, (row, written) in enumerate(pairs, start=1):
        if row is blank:
            continue
        filled += 1
        if filled > MOST_ROWS:
            raise too_large(path, f"has more than {MOST_ROWS:,} rows")
        cells = [_cell(cell, formula) for cell, formula in zip(row, written, strict=False)]
        if any(cell not in (None, "") for cell in cells):
            yield number, cells
        else:
            blank = row


def _cell(cell: Any, written: Any) -> Any:
    value = cell.value
    if isinstance(written, str) and written.startswith("=") and value is None:
        return Unread(
            "is a formula that was never computed", "Open it in a spreadsheet and save it, or write the text."
        )
    if isinstance(value, str):
        return CONTROL.sub(lambda found: chr(int(found[1], 16)), value)
    if isinstance(value, bool):
        return Unread(f"is the truth value {str(value).upper()}", "Write it as text.")
    if isinstance(value, int | float):
        return _number(value, str(cell.number_format or "General"))
    if isinstance(value, datetime | date | time | timedelta):
        return Unread(f"is a date or a time ({value}), whose text depends on its format", WRITE_TEXT)
    return value


def _number(value: float, shown_as: str) -> Any:
    """Return the number's text as the sheet shows it, or what says that it cannot be told."""
    if shown_as in ("General", "@"):
        return value if isinstance(value, int) else float(f"{value:.15g}")
    found = FORMAT.match(shown_as.split(";")[0])
    if not found or (value < 0 and ";" in shown_as):  # negative ones may have a format of their own
        return Unread(f"is the number {value:.15g} in the format {shown_as!r}", WRITE_TEXT)
    scaled = value * 100 if found["percent"] else value
    decimals = len(found["decimals"] or "")
    width = len(found["digits"]) + decimals + bool(decimals)  # of all digits and the point
    digits = f"{scaled:,.{decimals}f}" if found["grouped"] else f"{scaled:0{width}.{decimals}f}"
    text = f"{_literal(found['before'])}{digits}{found['percent'] or ''}{_literal(found['after'])}"
    return Formatted(text.strip())


def _literal(part: str) -> str:
    """Return the text that a part of a number's format shows."""
    return LITERAL.sub(lambda found: found[1] or found[2] or found[3] or (" " if found[4] else ""), part)


def _require_small(path: Path, content: bytes) -> None:
    """Raise CommandError for a workbook that unpacks to too much."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > MOST_BYTES:
        raise too_large(path, f"unpacks to more than {MOST_BYTES // 2**20} MiB")


def _hidden_rows(content: bytes, sheet: Any) -> set[int]:
    """Return the numbers of the rows that a filter or the user hides, which openpyxl does not tell when it streams."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        rows = HIDDEN_ROW.findall(archive.read(sheet._worksheet_path.lstrip("/")))
    return {int(found[1]) for row in rows if (found := ROW_NUMBER.search(row))}
