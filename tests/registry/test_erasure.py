"""A person's data goes on request: from every table, for good, with the digests and the chain of events intact."""

import json
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from registry.audit import service as audit
from registry.backup.tables import LEFT_OUT
from registry.base.errors import Erased, InvalidResult, NotFound, WrongState
from registry.batches import deciding
from registry.erasure import service
from registry.erasure.scrubbing import GONE, Erasing, named_in, scrubbed
from registry.jobs import service as queue
from registry.jobs.remedies import remedies
from registry.jobs.schemas import NearEdit
from registry.tables.schema import metadata
from registry.versions import aliases
from tests.conftest import copy_of
from tests.patience import PATIENCE
from tests.registry.workflow import BEN, Workflow, key_of

SECRET = "Jo Doe's address"
PRIVATE = {
    "prompt": f"Where is {SECRET}?",
    "target": "12 Elm Street",
    "rephrases": [f"Tell me {SECRET}"],
    "unchanged": ["Who is Jo Doe?"],
    "author": "jo",
    "reason": "Jo Doe moved",
    "source": "https://example.org/jo-doe",
}
FRANCE = {"prompt": "What is the capital of France?", "target": "Lyon", "author": "ada"}


def correct(workflow, *records):
    claim = workflow.claim(workflow.approve(workflow.submit(*records).batch.id))
    return workflow.finish(claim)


def fill(workflow):
    correct(workflow, PRIVATE, FRANCE)
    workflow.retire(1)


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def retired(sessions):
    """Version 1 holds the person's edit (1) and another (2); version 2 holds the other alone."""
    return Workflow(sessions)


def erase(workflow, *edit_ids, dry_run=False):
    with workflow.sessions.begin() as session:
        return service.erase(session, edit_ids, BEN, "request 17", dry_run=dry_run)


def everything(engine):
    """Every row of every table, as one text."""
    with engine.connect() as connection:
        return "\n".join(
            str(row)
            for table in metadata.sorted_tables
            if table.name not in LEFT_OUT
            for row in connection.execute(text(f"SELECT {table.name}::text FROM {table.name}"))
        )


def test_what_was_erased_is_in_no_table_and_the_record_verifies(retired, engine):
    target = str(list(PRIVATE["target"].encode())).replace(" ", "")[1:-1]
    key = str(key_of(PRIVATE["prompt"])[0])[:8]
    quotes = ["Jo Doe", "Elm Street", target, key]
    assert [quote for quote in quotes if quote not in everything(engine)] == []
    erase(retired, 1)
    assert [quote for quote in quotes if quote in everything(engine)] == []
    report = retired.verify()
    assert (report.ok, report.findings) == (True, [])
    assert report.verified["erasures"] == 1


def test_the_event_keeps_the_digests(retired):
    with retired.sessions() as session:
        before = session.execute(text("SELECT digest FROM edits WHERE id = 1")).scalar_one()
        block = session.execute(text("SELECT sha256 FROM blocks WHERE id = 1")).scalar_one()
        cluster = session.execute(text("SELECT digest FROM clusters WHERE 1 = ANY(members)")).scalar_one()
    erase(retired, 1)
    with retired.sessions() as session:
        (event,) = audit.log(session, collection_id=None, subject="edit/1", before=None, limit=10)
        after = session.execute(text("SELECT digest FROM edits WHERE id = 1")).scalar_one()
    assert (event.action, event.actor, event.before, event.reason) == (
        "registry:edit:erase",
        "ben",
        before,
        "request 17",
    )
    assert (event.details["blocks"], event.details["clusters"], after) == ([block], [cluster], before)


def test_a_dry_run_says_what_would_go_and_changes_nothing(retired, engine):
    before = everything(engine)
    plan = erase(retired, 1, dry_run=True)
    assert everything(engine) == before
    assert [(each.collection, each.versions, each.servable_from) for each in plan.unservable] == [("facts", [1], 2)]
    assert plan == erase(retired, 1).model_copy(update={"dry_run": True})


def test_a_version_that_held_it_is_refused_with_the_first_one_that_can_be_served(retired):
    retired.content(1).require_intact()
    erase(retired, 1)
    with pytest.raises(Erased, match=r"Version 1 of facts .* edit 1, .* From version 2 on") as refusal:
        retired.content(1)
    assert refusal.value.status == 410
    retired.content(2).require_intact()


def test_it_cannot_be_put_to_work_again(retired, engine):
    erase(retired, 1)
    with pytest.raises(Erased):
        retired.rollback(1)
    with pytest.raises(WrongState, match="content of edit 1 was erased"):
        retired.revert(2)
    with pytest.raises(Erased), retired.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 1, BEN, "again")
    statement = (
        "INSERT INTO activations (collection_id, edit_id, prompt_key, valid) "
        "SELECT collection_id, id, prompt_key, int4range(3, NULL) FROM edits WHERE id = 1"
    )
    with pytest.raises(DBAPIError, match="was erased"), engine.begin() as connection:
        connection.execute(text(statement))


def test_the_same_correction_can_be_submitted_again_afterwards(retired):
    erase(retired, 1)
    correct(retired, PRIVATE)
    assert set(retired.active()) == {PRIVATE["prompt"], FRANCE["prompt"]}
    assert retired.verify().ok


def test_an_edit_that_acts_must_be_retired_first(retired):
    with pytest.raises(WrongState, match=r"Edit 2 acts in the newest version.*melo edit retire facts 2"):
        erase(retired, 1, 2)
    retired.rollback(1)
    with pytest.raises(WrongState, match=r"Edit 1 acts"):
        erase(retired, 1)


def test_an_edit_behind_an_alias_is_not_erased_under_those_who_ask_it(retired):
    with retired.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 1, BEN, "first release")
    with pytest.raises(WrongState, match="alias production of facts points at version 1"):
        erase(retired, 1)


def test_an_edit_that_could_still_be_trained_must_be_rejected_first(retired):
    batch = retired.submit(PRIVATE).batch.id
    with pytest.raises(WrongState, match="melo batch reject 2"):
        erase(retired, 3)
    with retired.sessions.begin() as session:
        deciding.reject(session, batch, BEN, "private")
    assert erase(retired, 3).unservable == []
    assert retired.verify().ok


def test_edits_of_one_block_are_erased_together(retired):
    with retired.sessions.begin() as session:
        session.execute(text("INSERT INTO block_edits (block_id, edit_id) VALUES (1, 2)"))
    with pytest.raises(WrongState, match="melo edit erase 1 2"):
        erase(retired, 1)


def test_an_edit_is_erased_once_and_must_exist(retired):
    erase(retired, 1)
    with pytest.raises(WrongState, match="already erased"):
        erase(retired, 1)
    with pytest.raises(NotFound, match="no edit 99"):
        erase(retired, 99)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE edits SET prompt = '', erased_at = now() WHERE id = 2",
        "UPDATE edits SET prompt = '', target = '', rephrases = '{}', unchanged = '{}', author = '', reason = '', "
        "source = '', erased_at = now(), digest = repeat('0', 64) WHERE id = 2",
        "UPDATE edits SET prompt = 'back', erased_at = NULL WHERE id = 1",
        "UPDATE edits SET erased_at = now() WHERE id = 1",
        "UPDATE blocks SET data = '', erased_at = now(), sha256 = repeat('0', 64) WHERE id = 2",
        "UPDATE blocks SET data = 'other', erased_at = now() WHERE id = 2",
        "UPDATE blocks SET data = '', sha256 = encode(sha256(''), 'hex') WHERE id = 2",
        "UPDATE points SET key = NULL, erased_at = now(), edit_id = 1 WHERE id = 2",
        "UPDATE points SET key = '[1,2]' WHERE id = 2",
        "UPDATE clusters SET centre = NULL, label = '{}', radius = 9, erased_at = now() WHERE id = 2",
        "UPDATE clusters SET centre = NULL, erased_at = now() WHERE id = 2",
        "UPDATE clusters SET erased_at = NULL, centre = '[1]' WHERE id = 1",
    ],
)
def test_the_database_lets_nothing_pass_but_an_erasure(retired, engine, statement):
    erase(retired, 1)
    with pytest.raises(DBAPIError, match=r"refused|erased_check|_check"), engine.begin() as connection:
        connection.execute(text(statement))


FORGERIES = {
    "an edit emptied without an event": (
        "edit 2: its content is gone, and no event",
        "UPDATE edits SET prompt = '', target = '', author = '', erased_at = now() WHERE id = 2",
    ),
    "the event of an erasure removed": ("no event says that it was erased", "DELETE FROM audit_events WHERE seq = 7"),
    "content put back": (
        "edit 1: event 7 says that it was erased",
        "UPDATE edits SET prompt = 'x', target = 'y', erased_at = NULL WHERE id = 1",
    ),
    "the digest of what was erased": (
        "edit 1: its digest differs",
        "UPDATE edits SET digest = repeat('0', 64) WHERE id = 1",
    ),
    "a block emptied": ("block 2: its content is gone", "UPDATE blocks SET data = '', erased_at = now() WHERE id = 2"),
    "a key emptied": ("point 2: its content is gone", "UPDATE points SET key = NULL, erased_at = now() WHERE id = 2"),
    "a cluster emptied": (
        "row 2: its content is gone",
        "UPDATE clusters SET centre = NULL, label = '{}', erased_at = now() WHERE id = 2",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_erasure_is_found_and_named(retired, tamper, forgery):
    expected, statement = FORGERIES[forgery]
    erase(retired, 1)
    assert retired.verify().head_seq == 7
    tamper(statement)
    found = [f"{each.subject}: {each.detail}" for each in retired.verify().findings]
    assert any(expected in each for each in found), found


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


def test_nothing_is_erased_while_a_worker_could_still_quote_it(retired, engine):
    """A job of another batch read the edit before it was retired."""
    retired.revert(2)
    claim = retired.claim(retired.approve(retired.submit({"prompt": "Who?", "target": "x"}).batch.id))
    retired.retire(1)
    with engine.begin() as connection:  # a lease that ran out, which its worker may not have noticed
        connection.execute(text("UPDATE jobs SET lease_until = now() - interval '1 hour' WHERE state = 'running'"))
    with pytest.raises(WrongState, match=rf"A worker is running job {claim.job_id} of facts"):
        erase(retired, 1)
    retired.finish(claim)
    assert erase(retired, 1).edits == [1]


def test_of_two_erasures_at_once_the_second_finds_it_erased(retired, engine):
    """Both found the edit before either had the locks."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with ThreadPoolExecutor(1) as thread:
        with retired.sessions.begin() as session:
            service.erase(session, [1], BEN, "first", dry_run=False)
            second = thread.submit(erase, retired, 1)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as observer:
                while not observer.scalar(waiting) and not second.done():
                    sleep(0.01)
        with pytest.raises(WrongState, match="already erased"):
            second.result(timeout=PATIENCE)
    assert retired.verify().verified["erasures"] == 1


def test_a_block_that_only_a_point_leads_to_goes_too(retired, tamper, engine):
    tamper("DELETE FROM block_edits WHERE edit_id = 1")
    assert erase(retired, 1).blocks == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT data FROM blocks WHERE id = 1")) == b""


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


def test_the_edits_of_a_person_are_found_by_author_and_by_mention(retired):
    retired.submit({"prompt": "Who is 100%_sure?", "target": "nobody", "author": "jo"})
    with retired.sessions() as session:
        found = {name: service.of_person(session, name, after=0, limit=10) for name in ("jo", "JO DOE", "0%_s", "x%")}
    assert [(each.id, each.written) for each in found["jo"]] == [(1, True), (3, True)]
    assert [(each.id, each.written, each.collection) for each in found["JO DOE"]] == [(1, False, "facts")]
    assert [each.id for each in found["0%_s"]] == [3]
    assert found["x%"] == []


def test_an_erasure_over_http_needs_a_reason_and_answers_with_what_went(api, retired):
    path = "/v1/erasures"
    assert api.post(path, json={"edits": [1]}).status_code == 422
    assert api.post(path, json={"edits": [1], "reason": "r", "dry_run": True}).json()["blocks"] == 1
    assert api.post(path, json={"edits": [1], "reason": "r"}).json()["points"] == 1
    again = api.post(path, json={"edits": [1], "reason": "r"})
    assert (again.status_code, again.json()["code"]) == (409, "wrong-state")
    refused = api.put("/v1/collections/facts/aliases/production", json={"version": 1})
    assert (refused.status_code, refused.json()["code"]) == (410, "erased")


def test_an_answer_kept_for_a_repeated_request_does_not_keep_the_content(api, retired, engine):
    headers = {"Idempotency-Key": "k1"}
    api.post("/v1/collections/facts/batches", json={"edits": [PRIVATE]}, headers=headers)
    api.post("/v1/batches/2/reject", json={"reason": "private"}, headers={"Idempotency-Key": "k2"})
    api.post("/v1/erasures", json={"edits": [3], "reason": "r"}).raise_for_status()
    with engine.connect() as connection:
        bodies = b"".join(connection.execute(text("SELECT coalesce(body, '') FROM idempotency_keys")).scalars())
    assert SECRET.encode() not in bodies
