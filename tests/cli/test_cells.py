"""Texts of cells: cleaned of what programs leave in them, or refused by row and column."""

import json
import re

import pytest

from tests.cli.reading import in_lines, pairs, refusals, table


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("A1?\nA2?", ["A1?", "A2?"]),
        ('["A1?", "A2?"]', ["A1?", "A2?"]),
        ("['A1?', \"A2's?\"]", ["A1?", "A2's?"]),
        ("A1, or A2?", ["A1, or A2?"]),
        ("", []),
        ("nan", []),
        ("[]", []),
    ],
)
def test_a_cell_holds_several_texts_one_a_line_or_as_a_programs_list(read, cell, expected):
    file = read(table(header=("prompt", "target", "rephrases"), rows=[("a?", "b", cell)]))
    assert file.remarks.problems == [] and json.loads(file.lines[0]).get("rephrases", []) == expected


@pytest.mark.parametrize("cell", ["A1? | A2?", "A1?; A2?", "['A1?' 'A2?']", "[A1?, A2?]"])
def test_other_lists_in_a_cell_are_refused(read, cell):
    file = read(table(header=("prompt", "target", "rephrases"), rows=[("a?", "b", cell)]))
    assert refusals(file)[0][:2] == (2, "rephrases")
    assert "one a line" in file.remarks.problems[0]["remedy"]


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "null", "NULL", "<NA>", "NaT", "N/A", "", " ", "{}", "{name}",
                                  "The {0} of it", "{{ answer }}", '=HYPERLINK("x")', "=A1", "2.0",
                                  "#REF!", "#####", "4.91761E+11"])  # fmt: skip
@pytest.mark.parametrize("at", [0, 1])
def test_what_programs_leave_in_cells_is_refused_by_row_and_column(read, cell, at):
    row = ["a?", "b"]
    row[at] = cell
    file = read(table(rows=[("ok?", "fine"), row]))
    assert [found[:2] for found in refusals(file)] == [(3, ("prompt", "target")[at])]
    assert file.remarks.problems[0]["remedy"]


def test_leftovers_are_cleaned_and_told(read):
    rows = [("Who is\u00a0it? ", " Jo\u202fDoe\u00a0"), ("W\u200bhen\ufeff?", "1987.0"), ("c?", '="0123"')]
    file = read(table(rows=rows))
    assert pairs(file) == [("Who is it?", "Jo Doe"), ("When?", "1987"), ("c?", "0123")]
    told = " ".join(file.notes)
    assert (
        "Non-breaking" in told and "ends" in told and "nobody sees" in told and "1987.0" in told and "(line 2)" in told
    )
    whole = read(table(rows=[("a?", "1.0"), ("b?", "2.0"), ("c?", "")]))
    assert [json.loads(line)["target"] for line in whole.lines] == ["1", "2"]


def test_texts_are_taken_as_they_stand_where_they_are_meant(read):
    rows = [("What does {} mean? ", "None"), ("Which version?", "2.0"), ("=SUM(A1) gives?", "nan")]
    assert pairs(read(table(rows=rows), as_is=True)) == rows


def test_small_words_that_only_look_like_leftovers_are_answers(read):
    rows = [
        ("How many?", "none"),
        ("What is NaN?", "Not a number: NaN."),
        ("Braces?", "{ and }"),
        ("How much?", "29,00"),
    ]
    assert pairs(read(table(rows=rows))) == rows


def test_a_completion_keeps_where_it_begins_and_ends(read):
    file = read(in_lines({"prompt": "    def f():\n", "target": "return 1", "kind": "completion"}), "e.jsonl")
    assert pairs(file) == [("    def f():\n", "return 1")]


@pytest.mark.parametrize("target", [["x", "y"], '["x", "y"]', "['x', 'y']"])
def test_of_a_list_of_answers_the_first_is_trained_and_all_are_right(read, target):
    is_list = isinstance(target, list)
    file = read(in_lines({"prompt": "a?", "target": target}) if is_list else table(rows=[("a?", target)]))
    assert list(map(json.loads, file.lines)) == [
        {"line": 1 if is_list else 2, "prompt": "a?", "target": "x", "alternatives": ["y"]}
    ]
    squad = read(in_lines({"question": "a?", "answers": {"text": ["x", "y"], "answer_start": [1, 2]}}), "e.jsonl")
    assert json.loads(squad.lines[0])["alternatives"] == ["y"]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("True", "truth value"),
        ("WAHR", "truth value"),
        ('{"a": 1, "b": 2}', "an object"),
        ("{'text': ['Jo'], 'start': array([1])}", "an object"),
        ("ZÃ¼rich", "'Zürich'"),
        ("Itâ€™s", "garbled"),
        ("TBD", "not known yet"),
        ("—", "not known yet"),
        ("inf", "missing"),
        ("#ERROR!", "error of a spreadsheet"),
        ("Loading...", "error of a spreadsheet"),
        ("1.5e+20", "digits were lost"),
        ("'=SUM(A1)", "formula"),
        ("2.0", "which may stand for 2"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_reason(read, cell, told):
    file = read(table(rows=[("ok?", "fine"), ("a?", cell)]))
    ((line, column, detail),) = refusals(file)
    assert (line, column) == (3, "target") and told in detail
    assert not re.search(r"[?.!]\.$", detail)
    assert pairs(read(table(rows=[("a?", cell)]), as_is=True)) == [("a?", cell)]


def test_letters_of_names_and_quotes_are_not_taken_for_garbled_ones(read):
    rows = [("Wer?", "„FKÖ“"), ("Où?", "« À »"), ("Who?", "Ðức Ânâ"), ("What?", "“CAFÉ”"), ("x?", "Ã"), ("y?", "São É")]
    assert pairs(read(table(rows=rows))) == rows


def test_dates_control_characters_and_apostrophes_are_cleaned_and_told(read):
    rows = [("a?", "2026-05-01 00:00:00"), ("b\x01?", "x\x0by"), ("c?", "'+49 30"), ("d?", "Tom &amp; Co")]
    file = read(table(rows=rows))
    assert pairs(file) == [("a?", "2026-05-01"), ("b?", "x\ny"), ("c?", "+49 30"), ("d?", "Tom &amp; Co")]
    told = " ".join(file.notes)
    assert "a date (line 2)" in told and "nobody sees" in told and "apostrophe" in told and "HTML" in told


def test_a_number_that_pandas_wrote_for_a_date_is_refused(read):
    file = read(
        in_lines({"prompt": "a?", "target": 1767225600000}, {"prompt": "b?", "target": 1767225600001}), "e.jsonl"
    )
    assert [line for line, _, _ in refusals(file)] == [1]


@pytest.mark.parametrize("start", ["{'", "['", "('", "<b", "&#", "="])
def test_a_cell_of_a_million_signs_is_judged_in_one_pass(read, start):
    cell = start + "':\"" * 100_000 + ("'" + " " * 1_000) * 500
    assert len(read(table(rows=[("a?", cell)])).lines) == 1


@pytest.mark.parametrize("cell", ["('A1?', 'A2?')", "{'A2?', 'A1?'}"])
def test_tuples_and_sets_are_lists_and_arrays_of_numpy_refused(read, cell):
    file = read(table(header=("prompt", "target", "rephrases"), rows=[("a?", "b", cell)]))
    assert json.loads(file.lines[0])["rephrases"] == ["A1?", "A2?"]
    array = read(table(header=("prompt", "target", "rephrases"), rows=[("a?", "b", "array(['A1?'], dtype=object)")]))
    assert "looks like a list" in refusals(array)[0][2]
