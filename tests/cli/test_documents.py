"""JSON in all its forms."""

import json

import pytest

from tests.cli.reading import PAIRS, in_lines, pairs, refusals

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
        ('{"prompt": "a?", "target": 1e21}', "target"),
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


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"result": {"items": RECORDS, "total": 2}, "errors": [{"a": 1}]}),
        json.dumps({"0": RECORDS[0], "1": RECORDS[1]}),
        json.dumps([["prompt", "target"], *PAIRS]),
        json.dumps(RECORDS)[:-1] + ",\n]",
        json.dumps({"features": [{"name": "prompt"}], "rows": [{"row_idx": 0, "row": each} for each in RECORDS]}),
    ],
    ids=["nested", "by number", "arrays", "trailing comma", "hub"],
)
def test_records_are_found_wherever_a_program_nests_them(read, text):
    assert pairs(read(text, "edits.json")) == PAIRS


def test_squads_own_file_is_read_and_a_row_that_a_viewer_cut_off_refused(read):
    questions = [{"question": q, "answers": [{"text": a, "answer_start": 1}], "id": "1"} for q, a in PAIRS]
    squad = {
        "version": "2",
        "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [each]}]} for each in questions],
    }
    assert pairs(read(json.dumps(squad), "e.json")) == PAIRS
    rows = [{"row_idx": n, "row": each, "truncated_cells": ["target"] * n} for n, each in enumerate(RECORDS)]
    file = read(json.dumps({"rows": rows}), "e.json")
    assert refusals(file) == [(2, None, "The viewer of the data set cut it off.")]


def test_each_record_is_read_in_its_own_format(read):
    chat = {"messages": [{"role": "user", "content": "c?"}, {"role": "assistant", "content": "d"}]}
    file = read(in_lines({"prompt": "a?", "target": "b"}, chat, {"question": "e?", "answer": "f"}), "e.jsonl")
    assert pairs(file) == [("a?", "b"), ("c?", "d"), ("e?", "f")]
