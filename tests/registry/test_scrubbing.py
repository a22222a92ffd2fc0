"""No text of an erased edit stays with other jobs, in events or in kept answers."""

import json

import pytest
from sqlalchemy import text

from registry.audit import service as audit
from registry.base.errors import InvalidResult
from registry.erasure.scrubbing import GONE, Erasing, named_in, scrubbed
from registry.jobs import service as queue
from registry.jobs.preflights import remedies
from registry.jobs.schemas import NearEdit
from tests.conftest import copy_of
from tests.registry.private import PRIVATE, SECRET, correct, erase, retire_private
from tests.registry.workflow import Workflow

fill = retire_private


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def retired(sessions):
    """Version 1 holds the person's edit (1) and another (2); version 2 holds the other alone."""
    return Workflow(sessions)


def test_reports_of_other_jobs_no_longer_quote_it(retired, engine):
    report = [
        {"edit_id": 1, "loss": 0.1, "answer": "12 Elm", "conflicts": [{"edit_id": 2, "prompt": "p", "distance": 0.3}]},
        {
            "edit_id": 2,
            "conflicts": [{"edit_id": 1, "prompt": PRIVATE["prompt"], "distance": 0.3}],
            "unchanged_changed": [{"prompt": "mine", "before": "a", "after": "12 Elm Street", "by_edit": 1}],
            "near": [{"edit_id": 3, "prompt": "another", "target": "stays"}],
        },
    ]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET report = :report, progress = :progress"),
            {"report": json.dumps(report), "progress": json.dumps({"notes": [f"asked {PRIVATE['prompt']}"]})},
        )
    assert erase(retired, 1).jobs == 1
    with engine.connect() as connection:
        after, progress = connection.execute(text("SELECT report, progress FROM jobs")).one()
    assert after[0]["answer"] == GONE
    assert after[1]["conflicts"] == [{"edit_id": 1, "prompt": GONE, "distance": 0.3}]
    assert after[1]["unchanged_changed"] == [{"prompt": GONE, "before": GONE, "after": GONE, "by_edit": 1}]
    assert after[1]["near"] == report[1]["near"]
    assert progress == {"notes": [f"asked {GONE}"]}


def test_scrubbing_leaves_alone_what_is_not_the_edits():
    report = [
        {"edit_id": 2, "near": [{"edit_id": 12, "prompt": "p"}], "answered_by": None, "loss": 1},
        {"edit_id": 3, "answer": "nowhere", "remedies": ["It nearly repeats edit 12. Melo 1"]},
    ]
    assert scrubbed(report, Erasing({1}, ["q"], {"no"})) == report
    assert named_in(report, {1, 12}) == {12}


def test_jobs_of_other_batches_quote_it_in_no_form(retired, engine):
    """Messages hold texts as Python and JSON write them, and answers that nobody is named for."""
    target, prompt = PRIVATE["target"], PRIVATE["prompt"]
    correct(retired, {"prompt": "When was Acme founded?", "target": "1999"})
    report = [
        {
            "edit_id": 3,
            "remedies": [f"It nearly contradicts edit 1, which has the target {target!r}: retire it"],
            "unchanged_changed": [{"prompt": "p", "before": f"At {target.lower()}.", "after": "1999", "by_edit": 3}],
            "answer": "It is 1999",
        }
    ]
    error = f"for the prompt {prompt!r} and {json.dumps(prompt)}, or {(prompt + chr(34))!r}, edit 1 is active"
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET report = :report, error = :error WHERE batch_id = 2"),
            {"report": json.dumps(report), "error": error},
        )
    erase(retired, 1)
    with engine.connect() as connection:
        (after,), error = connection.execute(text("SELECT report, error FROM jobs WHERE batch_id = 2")).one()
    assert after["remedies"] == [f"It nearly contradicts edit 1, which has the target '{GONE}': retire it"]
    assert (after["unchanged_changed"][0]["before"], after["answer"]) == (GONE, "It is 1999")
    assert not [quote for quote in ("Jo Doe", "address") if quote in error], error


def test_what_a_job_says_of_another_edit_names_it_by_its_id_alone(retired):
    near = NearEdit(edit_id=1, prompt=SECRET, target="Elm", distance=0.1, inside=True, same_target=False)
    (way,) = remedies(2, 3, [near])
    assert "contradicts edit 1" in way and not [quote for quote in (SECRET, "Elm") if quote in way]
    claim = retired.claim(retired.approve(retired.submit(PRIVATE).batch.id))
    retired.rollback(1)
    with pytest.raises(InvalidResult, match="for its prompt, edit 1 is active since") as refusal:
        retired.finish(claim)
    assert not [quote for quote in ("Jo Doe", "Elm") if quote in str(refusal.value)]


def test_events_hold_no_prompt_and_no_target(retired):
    """What must be erasable must not be in what cannot be changed."""
    retired.revert(2)
    retired.rollback(1)
    job = retired.approve(retired.submit({"prompt": f"{SECRET} again", "target": "13 Elm Street"}).batch.id)
    claim = retired.claim(job)
    with retired.sessions.begin() as session:
        queue.fail(session, claim, f"the prompt {SECRET!r} is too long")
    with retired.sessions() as session:
        events = audit.log(session, collection_id=None, subject=None, before=None, limit=1000)
        told = json.dumps([[event.subject, event.reason, event.details] for event in events])
    assert not [quote for quote in ("Doe", "Elm", "France", "Lyon") if quote in told]


def test_an_answer_kept_for_a_repeated_request_does_not_keep_the_content(api, retired, engine):
    headers = {"Idempotency-Key": "k1"}
    api.post("/v1/collections/facts/batches", json={"edits": [PRIVATE]}, headers=headers)
    api.post("/v1/batches/2/reject", json={"reason": "private"}, headers={"Idempotency-Key": "k2"})
    api.post("/v1/erasures", json={"edits": [3], "reason": "r"}).raise_for_status()
    with engine.connect() as connection:
        bodies = b"".join(connection.execute(text("SELECT coalesce(body, '') FROM idempotency_keys")).scalars())
    assert SECRET.encode() not in bodies
