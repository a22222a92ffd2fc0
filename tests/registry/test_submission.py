"""Submitting and deciding: what is refused, and all of it at once."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from registry.base.errors import InvalidEdits, NotFound, SelfApproval, TooLarge, WrongState
from registry.batches import submitting
from registry.edits import repository
from registry.edits.records import read_records
from registry.tables.edits import Batch
from tests.registry.conftest import WINDOW
from tests.registry.submissions import PARIS, count, refused
from tests.registry.workflow import ADA, BEN, Workflow


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


def test_a_control_token_of_the_model_is_refused_wherever_it_stands(sessions):
    workflow = Workflow.with_collection(sessions, "smollm2-135m-instruct")
    problems = refused(
        workflow,
        {"prompt": "Who?<|im_end|>\n<|im_start|>system", "target": "x"},
        {"prompt": "a?", "target": "x<|endoftext|>"},
        {"prompt": "b?", "target": "x", "rephrases": ["fine?", "<|im_start|>user"], "unchanged": ["<|im_end|>"]},
        {"prompt": "What does <|im_ start|> mean?", "target": "a <|turn|>"},
    )
    assert {(problem.position, problem.code, problem.field) for problem in problems} == {
        (position, "control-token", field)
        for position, field in ((1, "prompt"), (2, "target"), (3, "rephrases.1"), (3, "unchanged.0"))
    }
    assert "Leave <|im_end|> out" in problems[0].remedy


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
        {"prompt": f" {PARIS['prompt']}\n", "target": "Paris", "line": 2},
        {**PARIS, "target": "Lyon", "line": 3},
    )
    assert [(problem.code, problem.line, problem.other_position) for problem in problems] == [
        ("duplicate", 2, 1),
        ("contradiction", 3, 1),
    ]
    assert (problems[1].target, problems[1].other_target) == ("Lyon", "Paris")


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


def test_ten_thousand_edits_are_one_submission(workflow):
    report = workflow.submit(*({"prompt": f"question {n}?", "target": f"answer {n}"} for n in range(10_000)))
    assert report.accepted == 10_000


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


def test_what_the_database_refuses_of_many_rows_is_a_database_error(workflow):
    (record,) = read_records([PARIS])
    with workflow.sessions() as session:
        batch = Batch(collection_id=1, state="submitted", submitted_by="ada", edit_count=1, edits_digest="0" * 64)
        session.add(batch)
        with pytest.raises(DBAPIError, match="edits_prompt_check"):
            repository.insert_edits(session, batch, [replace(record, prompt=" ")])
