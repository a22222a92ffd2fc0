"""Submitting and deciding: what is refused, all of it at once, and what becomes of contradictions."""

import json
import threading
import tracemalloc
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from registry.base.errors import InvalidEdits, InvalidResult, NotFound, SelfApproval, TooLarge, WrongState
from registry.batches import deciding, submitting
from registry.edits import repository
from registry.edits.records import read_records
from registry.jobs import service as queue
from registry.tables.edits import Batch
from tests.registry.conftest import WINDOW
from tests.registry.problem import is_problem
from tests.registry.workflow import ADA, BEN

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


def count(engine, table):
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()


def refused(workflow, *records, **options):
    """The problems of a submission that is refused."""
    with pytest.raises(InvalidEdits) as caught:
        workflow.submit(*records, **options)
    return caught.value.problems


def test_a_submission_waits_for_a_decision(workflow):
    report = workflow.submit(PARIS, {**PARIS, "prompt": "And of Spain?"}, message="capitals", source="facts.jsonl")
    assert report.accepted == 2
    assert (report.batch.state, report.batch.submitted_by, report.batch.edit_count) == ("submitted", "ada", 2)


def test_every_problem_of_every_record_is_named_and_nothing_is_stored(workflow, engine):
    problems = refused(
        workflow,
        {"prompt": "  ", "target": "x", "line": 1},
        {"prompt": "fine?", "target": "yes", "line": 2},
        {"prompt": "no target?", "line": 4},
        {"prompt": "a?", "target": "", "colour": "red", "line": 5},
        {"prompt": "a?", "target": "x", "kind": "poem", "line": 6},
        {"prompt": 7, "target": "x", "line": 7},
        {"prompt": "nul\x00?", "target": "x", "line": 8},
        {"prompt": "half \ud800", "target": "x", "line": 9},
        {"prompt": "rephrased?", "target": "x", "rephrases": ["ok?", " "], "line": 10},
    )
    assert {problem.line for problem in problems} == {1, 4, 5, 6, 7, 8, 9, 10}
    assert [problem.position for problem in problems] == sorted(problem.position for problem in problems)
    told = {(problem.line, problem.field) for problem in problems}
    assert {(5, "target"), (5, "colour"), (10, "rephrases.1")} <= told
    assert next(problem.detail for problem in problems if problem.line == 1) == "Its prompt is empty."
    assert count(engine, "edits") == count(engine, "batches") == 0


def test_skip_invalid_stores_the_rest_and_reports_what_it_left_out(workflow, engine):
    report = workflow.submit({"prompt": "", "target": "x"}, PARIS, skip_invalid=True)
    assert report.accepted == count(engine, "edits") == 1
    assert [problem.position for problem in report.skipped] == [1]


def test_a_record_that_is_left_out_takes_no_other_with_it(workflow):
    long = {**PARIS, "unchanged": ["word " * WINDOW]}
    report = workflow.submit(long, {**PARIS, "replaces": 99}, PARIS, PARIS, skip_invalid=True)
    told = [(problem.position, problem.code) for problem in report.skipped]
    assert (report.accepted, told) == (1, [(1, "too-long"), (2, "replaces-nothing"), (4, "duplicate")])


def test_nobody_waits_while_the_tokens_of_a_submission_are_counted(workflow, monkeypatch):
    counted = []

    def count_tokens(_, texts):
        with workflow.sessions.begin() as session:
            session.execute(text("SELECT FROM collections FOR UPDATE NOWAIT"))
        counted.extend(texts)
        return [1 for _ in texts]

    monkeypatch.setattr(submitting, "count_tokens", count_tokens)
    workflow.submit({"prompt": "word " * WINDOW, "target": "x"})
    assert len(counted) == 1


def test_a_dry_run_validates_and_stores_nothing(workflow, engine):
    assert workflow.submit(PARIS, dry_run=True).accepted == 1
    assert refused(workflow, {"prompt": "", "target": "x"}, dry_run=True)
    assert count(engine, "batches") == count(engine, "edits") == 0


def test_a_prompt_longer_than_the_models_window_is_refused_with_its_length(workflow):
    long = "word " * WINDOW + "?"
    (problem,) = refused(workflow, {"prompt": long, "target": "x"})
    assert problem.code == "too-long"
    assert str(WINDOW) in problem.detail
    assert workflow.submit({"prompt": "word " * (WINDOW - 100), "target": "x"}).accepted == 1


def test_repeats_and_contradictions_within_a_submission_name_both_places(workflow):
    problems = refused(
        workflow,
        {**PARIS, "line": 1},
        {"prompt": "what is  the capital of FRANCE?", "target": "Paris", "line": 2},
        {**PARIS, "target": "Lyon", "line": 3},
    )
    assert [(problem.code, problem.line, problem.other_position) for problem in problems] == [
        ("duplicate", 2, 1),
        ("contradiction", 3, 1),
    ]
    assert (problems[1].target, problems[1].other_target) == ("Lyon", "Paris")


def test_a_contradiction_with_an_active_edit_shows_both_and_the_way_to_replace_it(workflow, engine):
    workflow.correct((PARIS["prompt"], "Paris"))
    active = workflow.active()[PARIS["prompt"]]
    (problem,) = refused(workflow, {**PARIS, "target": "Lyon"})
    assert (problem.code, problem.other_edit_id, problem.target, problem.other_target) == (
        "contradiction", active, "Lyon", "Paris",
    )  # fmt: skip
    assert f"replaces={active}" in problem.remedy
    assert count(engine, "edits") == 1
    (problem,) = refused(workflow, PARIS)
    assert problem.code == "duplicate"


@pytest.mark.parametrize("how", ["replaces", "on_conflict"])
def test_a_replacement_takes_the_place_of_the_edit_it_contradicts(workflow, how):
    workflow.correct((PARIS["prompt"], "Paris"))
    old = workflow.active()[PARIS["prompt"]]
    record = {**PARIS, "target": "Lyon"}
    if how == "replaces":
        report = workflow.submit({**record, "replaces": old})
    else:
        report = workflow.submit(record, on_conflict="replace")
    workflow.finish(workflow.claim(workflow.approve(report.batch.id)))
    (edit,) = workflow.content(2).edits.values()
    assert edit.target == "Lyon"
    assert [edit.id for edit in workflow.content(1).edits.values()] == [old]
    assert len(workflow.content(2).clusters) == 1


def test_skipping_conflicts_stores_the_records_without_any(workflow):
    workflow.correct((PARIS["prompt"], "Paris"))
    report = workflow.submit(PARIS, {"prompt": "And of Spain?", "target": "Madrid"}, on_conflict="skip")
    assert report.accepted == 1
    assert [problem.code for problem in report.skipped] == ["duplicate"]
    assert workflow.submit(PARIS, on_conflict="skip").batch is None
    assert refused(workflow, {"prompt": "", "target": "x"}, on_conflict="skip")[0].code == "malformed"


def approval_refused(workflow, batch):
    with pytest.raises(InvalidEdits) as caught:
        workflow.approve(batch.id)
    (problem,) = caught.value.problems
    return problem.code, problem.other_edit_id


def test_an_edit_that_was_replaced_while_it_waited_cannot_be_approved(workflow):
    first = workflow.submit(PARIS).batch
    second = workflow.submit({"prompt": "France's capital?", "target": "Lyon", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(second.id))
    assert approval_refused(workflow, first) == ("replaced", 2)
    workflow.finish(claim)
    assert approval_refused(workflow, first) == ("replaced", 2)


def test_an_edit_is_replaced_by_one_batch_and_again_only_where_that_was_undone(workflow):
    workflow.correct((PARIS["prompt"], "Paris"))
    first = workflow.submit({"prompt": "France's capital?", "target": "Lyon", "replaces": 1}).batch
    second = workflow.submit({"prompt": "The capital of France?", "target": "Nice", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(first.id))
    assert approval_refused(workflow, second) == ("replaces-nothing", 1)
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "out of memory")
    workflow.finish(workflow.claim(workflow.approve(first.id)))
    assert approval_refused(workflow, second) == ("replaces-nothing", 1)
    workflow.rollback(1)
    workflow.finish(workflow.claim(workflow.approve(second.id)))
    assert workflow.active() == {"The capital of France?": 3}


def test_a_batch_whose_edit_was_retired_before_its_replacement_is_not_applied(workflow):
    workflow.correct((PARIS["prompt"], "Paris"))
    batch = workflow.submit({"prompt": "France's capital?", "target": "Lyon", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(batch.id))
    workflow.retire(1)
    with pytest.raises(InvalidResult, match=r"replace edits \[1\]"):
        workflow.finish(claim)
    assert workflow.active() == {}
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "refused")
    assert approval_refused(workflow, batch) == ("replaces-nothing", 1)


def test_an_edit_that_is_being_trained_is_replaced_once_it_acts(workflow):
    first = workflow.submit(PARIS).batch
    second = workflow.submit({**PARIS, "target": "Lyon", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(first.id))
    assert approval_refused(workflow, second) == ("replaces-nothing", 1)
    workflow.finish(claim)
    workflow.finish(workflow.claim(workflow.approve(second.id)))
    assert workflow.active() == {PARIS["prompt"]: 2}


def test_a_contradiction_with_a_waiting_edit_says_which_batch_to_decide_on(workflow):
    waiting = workflow.submit(PARIS).batch
    (problem,) = refused(workflow, {**PARIS, "target": "Lyon"}, on_conflict="replace")
    assert f"batch {waiting.id}" in problem.remedy
    with workflow.sessions.begin() as session:
        deciding.reject(session, waiting.id, BEN, "wrong")
    assert workflow.submit({**PARIS, "target": "Lyon"}).accepted == 1


def test_replacing_what_does_not_stand_is_refused(workflow):
    (problem,) = refused(workflow, {**PARIS, "replaces": 99})
    assert problem.code == "replaces-nothing"


def test_the_same_prompt_submitted_twice_at_once_is_stored_once(workflow, engine):
    outcomes = []

    def submit(target):
        try:
            outcomes.append(workflow.submit({**PARIS, "target": target}).accepted)
        except InvalidEdits:
            outcomes.append(0)

    threads = [threading.Thread(target=submit, args=(f"city {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcomes) == count(engine, "edits") == 1


def test_a_submitter_cannot_approve_their_own_batch(workflow, engine):
    batch = workflow.submit(PARIS).batch
    with pytest.raises(SelfApproval, match="submitted by ada"):
        workflow.approve(batch.id, actor=ADA)
    assert count(engine, "jobs") == count(engine, "outbox") == 0
    workflow.approve(batch.id, actor=BEN)
    assert count(engine, "jobs") == count(engine, "outbox") == 1


def test_a_batch_is_decided_on_once(workflow):
    batch = workflow.submit(PARIS).batch
    workflow.approve(batch.id)
    with pytest.raises(WrongState, match="it is approved by ben"):
        workflow.approve(batch.id)
    with pytest.raises(NotFound, match="no batch 77"):
        workflow.approve(77)


def test_an_approval_looks_again_for_contradictions(workflow):
    # Both waited; the second said that it replaces the first, and was decided on first.
    first = workflow.submit(PARIS).batch
    with workflow.open() as (session, _):
        (edit,) = repository.of_batch(session, first.id)
    second = workflow.submit({**PARIS, "target": "Lyon", "replaces": edit.id}).batch
    workflow.finish(workflow.claim(workflow.approve(second.id)))
    with pytest.raises(InvalidEdits) as caught:
        workflow.approve(first.id)
    assert caught.value.problems[0].other_target == "Lyon"


def test_ten_thousand_edits_are_one_submission(workflow):
    report = workflow.submit(*({"prompt": f"question {n}?", "target": f"answer {n}"} for n in range(10_000)))
    assert report.accepted == 10_000


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


def test_the_first_thousand_problems_are_listed_and_all_of_them_counted(workflow):
    broken = ({"prompt": f"question {n}?", "target": "" if n % 2 else "x"} for n in range(2_400))
    with pytest.raises(InvalidEdits, match=r"1200 of 2400 records .* Of 1,200 problems") as caught:
        workflow.submit(*broken)
    assert [problem.position for problem in caught.value.problems] == list(range(2, 2_001, 2))
    # A validation that comes later finds problems of earlier records: these are listed.
    mixed = [PARIS, PARIS, *({"prompt": "", "target": "x"} for _ in range(1_500))]
    assert [problem.position for problem in refused(workflow, *mixed)] == list(range(2, 1_002))


def test_a_hundred_thousand_edits_are_accepted_and_one_more_is_not(workflow):
    body = [b'{"prompt": "question %d?", "target": "answer %d"}\n' % (n, n) for n in range(100_001)]
    with workflow.open() as (session, collection):
        assert submitting.submit(session, collection, body[:-1], ADA, dry_run=True).accepted == 100_000
        with pytest.raises(TooLarge, match="more than 100,000"):
            submitting.submit(session, collection, iter(body), ADA, dry_run=True)


def test_a_batch_shows_its_first_thousand_edits_and_the_others_on_request(api, workflow):
    batch = workflow.submit(*({"prompt": f"question {n}?", "target": "x"} for n in range(1_200))).batch
    workflow.submit(PARIS)
    shown = api.get(f"/v1/batches/{batch.id}").json()
    assert (shown["edit_count"], len(shown["edits"])) == (1_200, 1_000)
    page = {"batch": batch.id, "limit": 5_000}
    assert len(api.get("/v1/collections/facts/edits", params=page).json()) == 1_200


def test_what_the_database_refuses_of_many_rows_is_a_database_error(workflow):
    (record,) = read_records([PARIS])
    with workflow.sessions() as session:
        batch = Batch(collection_id=1, state="submitted", submitted_by="ada", edit_count=1, edits_digest="0" * 64)
        session.add(batch)
        with pytest.raises(DBAPIError, match="edits_prompt_check"):
            repository.insert_edits(session, batch, [replace(record, prompt=" ")])
