"""Submissions over HTTP, as lines and as objects, and how records are read."""

import json
import tracemalloc
from dataclasses import replace

import pytest

from registry.edits.records import read_records
from tests.registry.problem import is_problem
from tests.registry.submissions import PARIS, count

NDJSON = {"Content-Type": "application/x-ndjson"}
BATCHES = "/v1/collections/facts/batches"


def lines(*edits):
    return b"".join(edit if isinstance(edit, bytes) else json.dumps(edit).encode() + b"\n" for edit in edits)


def test_lines_are_submitted_as_they_come_with_their_options_in_the_query(api, workflow, engine):
    body = lines(PARIS, b"\n", {**PARIS, "prompt": "And of Spain?", "target": "Madrid"})
    options = {"message": "capitals", "source": "facts.jsonl"}
    assert api.post(BATCHES, content=body, headers=NDJSON, params={"dry_run": True}).json()["accepted"] == 2
    assert count(engine, "batches") == 0
    batch = api.post(BATCHES, content=body, headers=NDJSON, params=options).json()["batch"]
    assert (batch["edit_count"], batch["message"], batch["source"]) == (2, "capitals", "facts.jsonl")
    assert [edit["position"] for edit in batch["edits"]] == [1, 2]
    skipped = api.post(BATCHES, content=body, headers=NDJSON, params={"on_conflict": "skip"}).json()
    assert (skipped["batch"], skipped["accepted"], skipped["skipped_count"]) == (None, 0, 2)


def test_every_problem_of_lines_names_its_line_and_nothing_is_stored(api, workflow, engine):
    body = lines(
        PARIS,
        b"\n",
        b"{not json\n",
        b'{"prompt": "a?", "target": "\xff"}\n',
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b'{"prompt": "a?", "target": NaN}\n',
        b'{"prompt": "half \\ud800", "target": "x"}\n',
        {**PARIS, "target": "Lyon"},
        {"prompt": "of a table?", "target": "", "line": 77},
        b'{"prompt": "the last one has no end?", "target": 1}',
    )
    answer = api.post(BATCHES, content=body, headers=NDJSON)
    problems = is_problem(answer, 422, "invalid-edits")["problems"]
    assert [problem["line"] for problem in problems] == [3, 4, 5, 6, 7, 8, 9, 77, 11]
    assert "character 2" in problems[0]["detail"]
    assert (problems[6]["code"], problems[6]["other_position"]) == ("contradiction", 1)
    assert count(engine, "edits") == count(engine, "batches") == 0


@pytest.mark.parametrize("form", ["line", "object"])
def test_a_record_with_very_many_unknown_fields_is_one_problem_and_takes_little_memory(form):
    record = {**PARIS, "line": 7, **{f"field {n}": n for n in range(20_000)}}
    raw = json.dumps(record).encode() if form == "line" else record
    tracemalloc.start()
    ((problem,),) = read_records([raw])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (problem.line, problem.code) == (7, "malformed")
    assert "20,000 fields that an edit does not have: 'field 0', 'field 1'" in problem.detail
    assert peak < 8e6
    few = {**PARIS, **{f"field {n}": n for n in range(20)}}
    assert [len(problems) for problems in read_records([few, json.dumps(few).encode()])] == [20, 20]


def test_a_line_with_many_colons_is_an_edit_as_any_other():
    record = {**PARIS, "prompt": "a: b? " * 50, "rephrases": ["::"] * 20, "kind": "qa"}
    (one,), (other,) = read_records([record]), read_records([json.dumps(record).encode()])
    assert replace(other, line=None) == one


@pytest.mark.parametrize(
    ("body", "headers", "params", "status", "code"),
    [
        (b"", NDJSON, {}, 422, "invalid-request"),
        (b"\n \n", NDJSON, {}, 422, "invalid-request"),
        (b"<edits/>", {"Content-Type": "text/xml"}, {}, 415, "wrong-media-type"),
        (b'{"edits": []}', {}, {}, 422, "invalid-request"),
        (b"{", {}, {}, 422, "invalid-request"),
        (b"[" * 100_000, {}, {}, 422, "invalid-request"),
        (lines(PARIS), NDJSON, {"on_conflict": "perhaps"}, 422, "invalid-request"),
        (lines(PARIS), NDJSON, {"colour": "red"}, 422, "invalid-request"),
        (json.dumps({"edits": [PARIS]}).encode(), {}, {"skip_invalid": True}, 422, "invalid-request"),
    ],
)
def test_what_is_no_submission_is_a_problem(api, workflow, engine, body, headers, params, status, code):
    answer = api.post(BATCHES, content=body, headers={"Content-Type": "application/json", **headers}, params=params)
    is_problem(answer, status, code)
    assert count(engine, "batches") == 0


def test_a_batch_shows_its_first_thousand_edits_and_the_others_on_request(api, workflow):
    batch = workflow.submit(*({"prompt": f"question {n}?", "target": "x"} for n in range(1_200))).batch
    workflow.submit(PARIS)
    shown = api.get(f"/v1/batches/{batch.id}").json()
    assert (shown["edit_count"], len(shown["edits"])) == (1_200, 1_000)
    page = {"batch": batch.id, "limit": 5_000}
    assert len(api.get("/v1/collections/facts/edits", params=page).json()) == 1_200
