"""Files of edits for tests: written as tables, workbooks, Parquet and JSON lines, and what was read of them."""

import csv
import io
import json
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

from cli.files.reading import EditFile

PAIRS = [("Who is the CEO of Acme?", "Jo Doe"), ("Where is Acme, exactly?", "Zürich; near the lake")]


def table(separator: str = ",", header: tuple[str, ...] = ("prompt", "target"), rows: Any = PAIRS) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows([header, *rows])
    return out.getvalue()


def pairs(file: EditFile) -> list[tuple[str, str]]:
    assert file.remarks.problems == []
    return [(each["prompt"], each["target"]) for each in map(json.loads, file.lines)]


def refusals(file: EditFile) -> list[tuple[int, str | None, str]]:
    return [(each["line"], each.get("field"), each["detail"]) for each in file.remarks.problems]


def in_lines(*records: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


def workbook(*rows: Any, title: str = "Sheet1", more: dict[str, Any] | None = None) -> bytes:
    book = openpyxl.Workbook()
    sheets = {title: rows, **(more or {})}
    book.remove(book.active)
    for name, cells in sheets.items():
        sheet = book.create_sheet(name)
        for row in cells:
            sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()
