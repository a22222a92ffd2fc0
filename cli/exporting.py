"""`melo edit export`: a collection's active edits as a file that is submitted and synced again."""

import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CommandError
from cli.files.reading import EXPORTED
from cli.files.shapes import FIELDS
from cli.invocation import Invocation
from cli.options import Collection
from cli.show import edits_in_words

COLUMNS = tuple(name for name in FIELDS if name in EXPORTED)
LONGEST_CELL = 32_767  # characters, of a workbook
ESCAPED = re.compile(r"_x[0-9A-F]{4}_|[\x00-\x08\x0b-\x1f]")  # what a workbook writes as _xHHHH_, or reads as such

Record = dict[str, Any]


def export(
    call: Invocation,
    collection: Collection,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file: .csv, .xlsx, or .jsonl for JSON lines.")],
) -> None:
    """Write a collection's active edits to a file that `melo edit submit` and `melo edit sync` take again."""
    write = WRITERS.get(file.suffix.lower())
    if write is None:
        raise CommandError(
            "The kind of file is not known", f"{file} ends in none of {', '.join(WRITERS)}.", "Choose such a name."
        )
    edits = call.client.edits(collection, active=True, limit=None)
    try:
        with file.open("xb"):
            pass
        write(file, ({name: whole[name] for name in COLUMNS} for whole in (e.model_dump(mode="json") for e in edits)))
    except FileExistsError:
        raise CommandError("The file exists", f"{file} is not overwritten.", "Choose another name.") from None
    except OSError as error:
        raise CommandError("The file cannot be written", f"{file}: {error.strerror}.", "Try another folder.") from None
    except CommandError:
        file.unlink()
        raise
    call.say(f"{edits_in_words(len(edits))} of {collection} written to {file}.")
    call.emit({"file": str(file), "edits": len(edits)})


def _lines(file: Path, records: Iterable[Record]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in records)


def _table(file: Path, records: Iterable[Record]) -> None:
    # With a byte order mark, without which spreadsheets take it for another encoding.
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(COLUMNS)
        rows.writerows(map(_cells, records))


def _workbook(file: Path, records: Iterable[Record]) -> None:
    """Write texts as texts: none becomes a formula. Raises CommandError for one that no workbook holds."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("edits")
    sheet.append(COLUMNS)
    for record in records:
        row = []
        for text in _cells(record):
            if len(text) > LONGEST_CELL:
                raise CommandError(
                    "The file cannot be written",
                    f"A text of {len(text):,} characters does not fit into a workbook's cell.",
                    "Export it as .csv or .jsonl.",
                )
            cell = WriteOnlyCell(sheet, ESCAPED.sub(_escape, text))
            cell.data_type = "s"
            row.append(cell)
        sheet.append(row)
    book.save(file)


def _escape(found: re.Match[str]) -> str:
    text = found[0]
    return f"_x005F{text}" if len(text) > 1 else f"_x{ord(text):04X}_"


def _cells(record: Record) -> list[str]:
    return [_cell(value) for value in record.values()]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return str(value)


WRITERS: dict[str, Callable[[Path, Iterable[Record]], None]] = {
    ".csv": _table,
    ".xlsx": _workbook,
    ".jsonl": _lines,
    ".ndjson": _lines,
}
