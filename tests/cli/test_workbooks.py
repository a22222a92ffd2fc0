"""Excel workbooks and Parquet."""

import io
import json
import zipfile
from datetime import date
from decimal import Decimal

import openpyxl
import pytest

from cli.errors import CommandError
from tests.cli.reading import PAIRS, pairs, parquet, refusals, workbook


@pytest.mark.parametrize("name", ["edits.xlsx", "edits.csv", "edits"])
def test_a_workbook_is_known_by_its_content(read, name):
    file = read(workbook(("Question", "Answer", None), *PAIRS, (None, None), ("When?", 1987)), name)
    assert pairs(file) == [*PAIRS, ("When?", "1987")]
    assert json.loads(file.lines[-1])["line"] == 5 and file.placed({"line": 5})["place"] == "row 5"


def test_the_sheet_with_a_header_is_read_and_others_are_told(read):
    made = workbook(("notes",), title="Read me", more={"Data": [("prompt", "target"), *PAIRS], "Old": [("a", "b")]})
    file = read(made, "e.xlsx")
    assert pairs(file) == PAIRS
    assert "'Data' was read, and not 'Read me', 'Old'" in file.notes[0]
    with pytest.raises(CommandError, match="no sheet 'New'"):
        read(made, "e.xlsx", sheet="New")


def test_cells_whose_text_cannot_be_told_are_refused(read):
    values = [date(2026, 11, 1), "=A1&A2", "#N/A", True, 0.5, 29, 1987.0, 0.1 + 0.2]
    book = openpyxl.load_workbook(
        io.BytesIO(workbook(("prompt", "target"), *((f"{n}?", v) for n, v in enumerate(values))))
    )
    sheet = book.active
    sheet["B6"].number_format, sheet["B7"].number_format = "0%", '0.00 "€"'
    out = io.BytesIO()
    book.save(out)

    file = read(out.getvalue(), "e.xlsx")

    assert [(row, column) for row, column, _ in refusals(file)] == [(row, "target") for row in (2, 3, 4, 5)]
    told = {each["prompt"]: each["target"] for each in map(json.loads, file.lines)}
    assert told == {"4?": "50%", "5?": "29.00 €", "6?": "1987", "7?": "0.3"}
    assert any("with a point before decimals (rows 6, 7)" in note for note in file.notes)


def test_numbers_are_read_as_their_formats_show_them(read):
    formats = [
        (12, "00000", "00012"), (29.9, '"$"#,##0.00', "$29.90"), (1234.5, "[$€-407] #,##0.00", "€ 1,234.50"),
        (7, '0" items"', "7 items"), (1.5, "#,##0.00_);(#,##0.00)", "1.50"), (-1.5, "0.0", "-1.5"),
        (-1.5, "#,##0.00_);(#,##0.00)", None), (0.5, "# ?/?", None),
    ]  # fmt: skip
    book = openpyxl.load_workbook(io.BytesIO(workbook(("prompt", "target"), *((f"{n}?", 0) for n in range(8)))))
    for row, (value, shown_as, _) in enumerate(formats, start=2):
        book.active[f"B{row}"].value, book.active[f"B{row}"].number_format = value, shown_as
    out = io.BytesIO()
    book.save(out)
    file = read(out.getvalue(), "e.xlsx")
    assert [json.loads(line)["target"] for line in file.lines] == [text for _, _, text in formats if text]
    assert [row for row, _, _ in refusals(file)] == [8, 9]


def test_a_workbook_with_a_password_says_so(read):
    with pytest.raises(CommandError, match="password"):
        read(b"\xd0\xcf\x11\xe0" + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le"), "e.xlsx")


def test_a_workbook_with_a_few_cells_far_away_is_read_at_once(read):
    book = openpyxl.load_workbook(io.BytesIO(workbook(("prompt", "target"), *PAIRS)))
    sheet = book.active
    sheet["XFD2"], sheet["A1000000"], sheet["B1000000"] = "x", "far?", "away"
    out = io.BytesIO()
    book.save(out)
    file = read(out.getvalue(), "e.xlsx")
    assert pairs(file) == [*PAIRS, ("far?", "away")]
    assert json.loads(file.lines[-1])["line"] == 1_000_000


def test_archives_that_unpack_to_too_much_or_are_no_workbook_are_refused(read, monkeypatch):
    monkeypatch.setattr("cli.files.workbooks.MOST_BYTES", 100_000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"\0" * 1_000_000)
    with pytest.raises(CommandError, match="unpacks to more"):
        read(bomb.getvalue(), "e.xlsx")
    with pytest.raises(CommandError, match="incomplete archive"):
        read(workbook(("prompt", "target"), *PAIRS)[:-200], "e.xlsx")
    ods = io.BytesIO()
    with zipfile.ZipFile(ods, "w") as archive:
        archive.writestr("content.xml", "<a/>")
    with pytest.raises(CommandError, match="OpenDocument"):
        read(ods.getvalue(), "e.ods")


def test_parquet_is_read_with_its_lists_and_numbers(read):
    file = read(
        parquet(prompt=["a?", "b?", "c?"], target=[["x", "y"], ["z"], []], rephrases=[["a1?"], None, []],
                __index_level_0__=[0, 1, 2]),
        "e.parquet",
    )  # fmt: skip
    assert list(map(json.loads, file.lines)) == [
        {"line": 1, "prompt": "a?", "target": "x", "alternatives": ["y"], "rephrases": ["a1?"]},
        {"line": 2, "prompt": "b?", "target": "z"},
    ]
    assert refusals(file) == [(3, "target", "Its target is empty.")]
    assert pairs(read(parquet(prompt=["a?"], target=[1987]), "e.parquet")) == [("a?", "1987")]
    nan = read(parquet(prompt=["a?", "b?"], target=[1987.0, float("nan")]), "e.parquet")
    assert [line for line, _, _ in refusals(nan)] == [2] and json.loads(nan.lines[0])["target"] == "1987"
    with pytest.raises(CommandError, match="not a whole Parquet file"):
        read(parquet(prompt=["a?"], target=["b"])[:-20], "e.parquet")


def test_rows_that_a_filter_hides_are_refused(read):
    book = openpyxl.load_workbook(io.BytesIO(workbook(("prompt", "target"), *PAIRS, ("c?", "draft"))))
    book.active.row_dimensions[3].hidden = True
    out = io.BytesIO()
    book.save(out)
    file = read(out.getvalue(), "e.xlsx")
    assert refusals(file) == [(3, None, "It is hidden, by a filter or by hand.")]
    assert [json.loads(line)["line"] for line in file.lines] == [2, 4]


def test_decimals_and_bytes_of_parquet_are_texts(read):
    assert pairs(read(parquet(prompt=[b"a?"], target=[Decimal("29.90")]), "e.parquet")) == [("a?", "29.90")]
