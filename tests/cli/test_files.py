"""Files of edits as spreadsheets, pandas and other tools write them: recognised, and cleaned or refused by row."""

import csv
import io
import json
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.errors import CommandError
from cli.files import content
from cli.files.reading import EditFile, ReadOptions, mapping, open_edits
from tests.cli.program import Melo, edit, write

PAIRS = [("Who is the CEO of Acme?", "Jo Doe"), ("Where is Acme, exactly?", "Zürich; near the lake")]


def table(separator: str = ",", header: tuple[str, ...] = ("prompt", "target"), rows: Any = PAIRS) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows([header, *rows])
    return out.getvalue()


@pytest.fixture
def read(tmp_path: Path):
    """Read a file of this content."""

    def read(content: str | bytes, name: str = "edits.csv", **options: Any) -> EditFile:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return open_edits(file, ReadOptions(**options))

    return read


def pairs(file: EditFile) -> list[tuple[str, str]]:
    assert file.remarks.problems == []
    return [(each["prompt"], each["target"]) for each in map(json.loads, file.lines)]


def refusals(file: EditFile) -> list[tuple[int, str | None, str]]:
    return [(each["line"], each.get("field"), each["detail"]) for each in file.remarks.problems]


def in_lines(*records: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_csv_is_read_with_any_separator_and_encoding(read, separator, encoding):
    file = read(table(separator).encode(encoding))

    assert pairs(file) == PAIRS
    assert file.notes == []
    assert {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[separator] in file.kind


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Wo ist das Café Zürich?,Bahnhofstraße – „Mitte“", "cp1252"),
        ("What does Pro cost?,29 €", "cp1252"),
        ("Kto jest prezesem?,Józef Żółć", "cp1250"),
        ("Кто директор Акме?,Иван Петров", "cp1251"),
        ("社長は誰ですか?,山田太郎です", "cp932"),
    ],
)
def test_an_encoding_is_guessed_and_the_guess_is_told(read, text, encoding):
    file = read(f"prompt,target\n{text}\n".encode(encoding))

    assert pairs(file) == [tuple(text.split(","))]
    assert any("guess" in note and encoding in note and "--encoding" in note for note in file.notes)
    named = read(f"prompt,target\n{text}\n".encode(encoding), encoding=encoding)
    assert pairs(named) == [tuple(text.split(","))] and named.notes == []


def test_text_that_is_utf_8_but_for_a_byte_is_refused_by_its_line(read):
    with pytest.raises(CommandError, match="line 3"):
        read("prompt,target\nWo?,Zürich\n".encode() + b"a,\xff\n")
    with pytest.raises(CommandError, match="no encoding 'klingon'"):
        read(table(), encoding="klingon")
    assert refusals(read("prompt,target\na,Z\ufffdrich\n"))[0][:2] == (2, "target")


@pytest.mark.parametrize(
    "header",
    [("Prompt", "TARGET"), (" prompt ", "target "), ("Question", "Answer"), ("query", "Correct answer"),
     ("INPUT", "expectedOutput"), ("\ufeffprompt", "target")],
)  # fmt: skip
def test_headers_are_read_in_any_case_and_by_their_usual_names(read, header):
    assert pairs(read(table(header=header))) == PAIRS


def test_other_headers_are_mapped(read):
    text = table(header=("Frage", "Antwort (neu)"))
    assert pairs(read(text, mapped=mapping(["prompt=frage", "target=Antwort (neu)"]))) == PAIRS
    with pytest.raises(CommandError, match=r"'Frage', 'Antwort") as error:
        read(text)
    assert "--map prompt=" in error.value.remedy
    with pytest.raises(CommandError, match="--map colour=x"):
        mapping(["colour=x"])
    assert pairs(read(in_lines({"q1": "a?", "a1": "b"}), "e.jsonl", mapped={"prompt": "q1", "target": "a1"}))


def test_a_wrong_answer_beside_the_correct_one_is_not_taken(read):
    assert pairs(read(in_lines({"input": "a?", "output": "wrong", "expected": "right"}))) == [("a?", "right")]
    assert pairs(read("question,answer,ground_truth\na?,wrong,right\n")) == [("a?", "right")]
    file = read("question,answer,correct_answer\na?,wrong,right\n")
    assert pairs(file) == [("a?", "right")]
    assert file.notes == ["Ignored: 'answer'."]
    with pytest.raises(CommandError, match="'question' and 'query' could be the prompt"):
        read("question,query,target\na?,b?,c\n")


def test_what_is_no_field_is_ignored_with_a_note_and_an_index_without(read):
    file = read("id,prompt,target,status\n7,a?,b,ok\n")
    assert pairs(file) == [("a?", "b")] and file.notes == ["Ignored: 'id', 'status'."]
    for index in ("", "Unnamed: 0", "index", "level_0"):
        file = read(f"{index},prompt,target\n0,a?,b\n")
        assert pairs(file) == [("a?", "b")] and file.notes == []


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_a_line_that_names_the_separator_is_followed(read, first):
    file = read(first + table(";"))
    assert pairs(file) == PAIRS
    assert json.loads(file.lines[0])["line"] == 3


def test_titles_above_the_header_and_blank_rows_are_passed_over(read):
    file = read("Corrections of November;\n;\n\nprompt;target\na?;b\n;\n\nc?;d\n")
    assert pairs(file) == [("a?", "b"), ("c?", "d")]
    assert [json.loads(line)["line"] for line in file.lines] == [5, 8]
    assert "line 4" in file.notes[0]


def test_quotes_line_breaks_and_backslashes_in_cells_are_read(read):
    assert pairs(read('prompt,target\n"Which, ""then""?\nExactly.",b\n')) == [('Which, "then"?\nExactly.', "b")]
    file = read('prompt,target\n"What is \\"Pro\\", then?",b\n"Plain?",d\n')
    assert pairs(file) == [('What is "Pro", then?', "b"), ("Plain?", "d")]
    assert read("prompt,target\r a?,b\rc?,d\r").lines != []
    assert pairs(read("'prompt','target'\n'a, or b?','c'\n")) == [("a, or b?", "c")]
    assert pairs(read('id\tprompt\ttarget\n1\ta?\t"b\n2\tc "d"?\te\n')) == [("a?", '"b'), ('c "d"?', "e")]


@pytest.mark.parametrize(
    ("text", "line"),
    [("prompt,target\na?,b,c\n", 2), ("prompt,target\na?,b\nc?\n", 3), ('prompt,target\na?,b\n"open,c\nd,e\n', 3)],
)
def test_broken_rows_are_named(read, text, line):
    assert [found[0] for found in refusals(read(text))] == [line]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,target,target\na,b,c\n", "'target' occurs twice"),
        ("Who?,Jo\nWhere?,Here\n", "a prompt and a target are needed"),
        ("prompt,target\n", "holds no edits"),
        ("", "holds no edits"),
    ],
)
def test_a_table_without_a_usable_header_is_refused(read, text, told):
    with pytest.raises(CommandError, match=told):
        read(text)


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

    assert [(row, column) for row, column, _ in refusals(file)] == [(row, "target") for row in (2, 3, 4, 5, 7)]
    told = {each["prompt"]: each["target"] for each in map(json.loads, file.lines)}
    assert told == {"4?": "50%", "6?": "1987", "7?": "0.3"}


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


@pytest.mark.parametrize(("start", "told"), [(each[0], each[1]) for each in content.UNREAD])
def test_known_kinds_that_are_not_read_are_refused_with_what_to_do(read, start, told):
    with pytest.raises(CommandError) as error:
        read(start + b"\1\2\3" * 10)
    assert told in error.value.detail and error.value.remedy


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


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


RECORDS = [{"prompt": prompt, "target": target} for prompt, target in PAIRS]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        in_lines(*RECORDS),
        "\ufeff" + in_lines(*RECORDS).replace("\n", "\r\n\r\n"),
        "\n".join(json.dumps(each, indent=2) for each in RECORDS),
        json.dumps({"data": RECORDS, "version": 1}),
        json.dumps({"rows": [{"row_idx": n, "row": each} for n, each in enumerate(RECORDS)]}),
        json.dumps({"prompt": {"0": PAIRS[0][0], "1": PAIRS[1][0]}, "target": {"0": PAIRS[0][1], "1": PAIRS[1][1]}}),
        json.dumps({"columns": ["prompt", "target"], "index": [0, 1], "data": PAIRS}),
    ],
    ids=["array", "indented", "lines", "bom", "objects", "data", "hub", "pandas columns", "pandas split"],
)
@pytest.mark.parametrize("name", ["edits.json", "edits.jsonl", "edits.csv"])
def test_json_is_read_in_all_its_forms_whatever_the_name(read, text, name):
    assert pairs(read(text, name)) == PAIRS


@pytest.mark.parametrize(
    ("record", "column"),
    [
        ('{"prompt": "a?", "target": NaN}', "target"),
        ('{"prompt": "a?", "target": null}', "target"),
        ('{"prompt": "a?", "target": true}', "target"),
        ('{"prompt": "a?", "target": {"x": 1}}', "target"),
        ('{"prompt": " ", "target": "x"}', "prompt"),
        ('{"prompt": "a?", "target": "x", "target": "y"}', None),
        ('{"prompt": "a?", "target": "x", "rephrases": [{"a": 1}]}', "rephrases"),
        ('{"prompt": "a?", "target": "x", "replaces": "next"}', "replaces"),
    ],
)
def test_records_of_json_are_refused_by_line_and_field(read, record, column):
    file = read('{"prompt": "ok?", "target": "x"}\n\n' + record + "\n", "edits.jsonl")
    assert [found[:2] for found in refusals(file)] == [(3, column)]
    assert len(file.lines) == 1


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]
SAID = {"role": "assistant", "content": "b"}
CORRECTION = {"dataType": "CORRECTION", "name": "output", "value": 0, "stringValue": "b", "observationId": None}


@pytest.mark.parametrize(
    ("name", "record", "expected"),
    [
        ("OpenAI chat", {"messages": [*MESSAGES, SAID]}, {}),
        ("OpenAI chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a?"}]}, SAID]}, {}),
        ("ShareGPT", {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}, {}),
        ("OpenAI preferences", {"input": {"messages": MESSAGES}, "preferred_output": [SAID],
                                "non_preferred_output": [SAID]}, {}),
        ("OpenAI prompt and completion", {"prompt": "a?", "completion": " b"}, {}),
        ("OpenAI prompt and completion", {"prompt": MESSAGES, "completion": [SAID]}, {}),
        ("Alpaca", {"instruction": "a?", "input": "", "output": "b"}, {}),
        ("Alpaca", {"instruction": "Answer.", "input": "a?", "output": "b"}, {"prompt": "Answer.\n\na?"}),
        ("EasyEdit", {"prompt": "a?", "target_new": "b", "rephrase_prompt": "A?", "subject": "x", "ground_truth": "z",
                      "locality": {"n": {"prompt": "c?", "ground_truth": "d"}}},
         {"rephrases": ["A?"], "unchanged": ["c?"], "kind": "qa"}),
        ("zsRE in the form of EasyEdit", {"case_id": "zsre_1", "prompt": "a?", "target_new": "b",
                                          "locality": [{"prompt": "c?", "metric": "m"}]},
         {"unchanged": ["c?"], "kind": "qa"}),
        ("KnowEdit", {"prompt": "The mother of {} is", "subject": "Ann", "target_new": "b",
                      "portability": {"Subject_Aliasing": [{"prompt": "Annie's mother is", "ground_truth": [["b"]]}],
                                      "Reasoning": [{"prompt": "no", "ground_truth": "no"}]},
                      "locality": {"Relation_Specificity": [{"prompt": "The father of Ann is", "ground_truth": "d"}]}},
         {"prompt": "The mother of Ann is", "rephrases": ["Annie's mother is"], "unchanged": ["The father of Ann is"],
          "kind": "completion"}),
        ("zsRE", {"src": "a?", "alt": "b", "rephrase": "A?", "loc": "nq question: who is it", "subject": "x",
                  "pred": "z", "answers": ["z"]}, {"rephrases": ["A?"], "unchanged": ["who is it?"]}),
        ("CounterFact", {"case_id": 0, "requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Ann",
                                                             "target_new": {"str": "b"}, "target_true": {"str": "z"}},
                         "paraphrase_prompts": ["Ann speaks"], "neighborhood_prompts": ["Bob speaks"],
                         "attribute_prompts": [], "generation_prompts": []},
         {"prompt": "The mother tongue of Ann is", "rephrases": ["Ann speaks"], "unchanged": ["Bob speaks"],
          "kind": "completion"}),
        ("MQuAKE", {"case_id": 1, "requested_rewrite": [{"prompt": "{} is", "subject": "x", "question": "a?",
                                                         "target_new": {"str": "b", "id": "Q1"}}],
                    "questions": ["m1?", "m2?"], "new_answer": "n",
                    "new_single_hops": [{"question": "a?", "answer": "b", "answer_alias": ["B.", "bee"]}]},
         {"alternatives": ["B.", "bee"], "kind": "qa"}),
        ("Langfuse corrections", {"id": "t", "input": {"messages": MESSAGES}, "output": "z",
                                  "scores": [CORRECTION]}, {}),
        ("Langfuse corrections", {"trace": {"input": "z?"}, "observations": [{"id": "o", "input": {"question": "a?"}}],
                                  "scores": [{**CORRECTION, "observationId": "o"}, {"dataType": "NUMERIC"}]}, {}),
        ("Langfuse corrections", {"input": "a?", "output": "z", "correctedOutput": "b"}, {}),
        ("Langfuse dataset", {"id": 1, "input": {"question": "a?"}, "expectedOutput": {"answer": "b"}}, {}),
    ],
)  # fmt: skip
def test_each_format_is_recognised_named_and_mapped(read, name, record, expected):
    file = read(in_lines(record), "edits.jsonl")

    assert file.format == name and file.remarks.problems == []
    (made,) = map(json.loads, file.lines)
    assert made == {"line": 1, "prompt": "a?", "target": "b", **expected}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"messages": [MESSAGES[1], SAID, MESSAGES[1], SAID]}, "2 questions"),
        ({"messages": MESSAGES}, "no answer of the assistant"),
        ({"messages": [MESSAGES[1], {"role": "tool", "content": "x"}, SAID]}, "neither the user nor the assistant"),
        ({"requested_rewrite": "x"}, "no requested_rewrite"),
        ({"scores": [CORRECTION]}, "without what was asked"),
    ],
)
def test_records_of_a_known_format_that_hold_no_correction_are_refused(read, record, told):
    assert told in refusals(read(in_lines(record), "e.jsonl"))[0][2]


def test_traces_without_a_correction_are_left_out_and_facts_of_several_questions_taken_once(read):
    file = read(in_lines({"input": "a?", "scores": [CORRECTION]}, {"input": "c?", "scores": []}), "e.jsonl")
    assert pairs(file) == [("a?", "b")]
    assert file.notes == ["Records without a corrected output were left out (line 2)"]
    rewrite = {"prompt": "{} is", "subject": "x", "question": "a?", "target_new": {"str": "b"}}
    file = read(in_lines(*[{"requested_rewrite": [rewrite], "questions": [q]} for q in ("m?", "n?")]), "e.jsonl")
    assert pairs(file) == [("a?", "b")]


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


def test_a_dry_run_shows_the_rows_as_they_were_understood(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    rows = [("1", *PAIRS[0]), ("2", *PAIRS[1])]
    file.write_bytes(table(";", ("Frage-Nr", "Question", "Answer"), rows).encode("cp1252"))

    shown = melo("edit", "submit", file, "-c", facts, "--dry-run").stdout

    assert "Question and Answer (CSV with semicolons, cp1252 (a guess))" in shown
    assert "prompt ← Question, target ← Answer" in shown
    assert "Zürich" in shown and "Ignored: 'Frage-Nr'" in shown and "2 edits would be accepted" in shown
    told = melo.records("edit", "submit", file, "-c", facts, "--dry-run")["read"]
    assert told["columns"] == {"prompt": "Question", "target": "Answer"} and len(told["first"]) == 2
    assert melo.records("batch", "list", facts) == []


def test_the_standard_input_is_read(melo: Melo, facts: str) -> None:
    piped = Melo(melo.home, typed=table("\t"))
    made = piped.records("edit", "submit", "-", "-c", facts)
    assert [each["target"] for each in made["batch"]["edits"]] == [target for _, target in PAIRS]
    assert made["batch"]["source"] == "standard input"


def test_a_refusal_of_the_registry_names_the_files_own_rows_and_columns(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = tmp_path / "list.xlsx"
    file.write_bytes(workbook(("Question", "Answer"), ("a?", "x"), ("b?", "y" * 10_001), ("c?", None)))

    refusal = melo.refusal("edit", "submit", file, "-c", facts)

    assert "row 3, Answer" in refusal and "row 4, Answer" in refusal and str(file) in refusal
    assert melo.records("batch", "list", facts) == []


def test_alternatives_are_part_of_the_edit(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "x") | {"target": ["x", "y"]})
    (made,) = melo.records("edit", "submit", file, "-c", facts)["batch"]["edits"]
    assert (made["target"], made["alternatives"]) == ("x", ["y"])
    (added,) = melo.records("edit", "add", facts, "b?", "x", "--alternative", "z")["batch"]["edits"]
    assert added["alternatives"] == ["z"]
