"""A person's data goes on request: for good, with the digests and the chain of events intact."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from registry.audit import service as audit
from registry.backup.tables import LEFT_OUT
from registry.base.errors import Erased, NotFound, WrongState
from registry.batches import deciding
from registry.erasure import service
from registry.tables.schema import metadata
from registry.versions import aliases
from tests.conftest import copy_of
from tests.patience import PATIENCE, until
from tests.registry.private import FRANCE, PRIVATE, correct, erase, retire_private
from tests.registry.workflow import BEN, Workflow, key_of

fill = retire_private


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def retired(sessions):
    """Version 1 holds the person's edit (1) and another (2); version 2 holds the other alone."""
    return Workflow(sessions)


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


def test_an_edit_behind_a_canary_is_not_erased_either(retired):
    with retired.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 2, BEN, "first release", second=1)
    with pytest.raises(WrongState, match=r"production of facts points at version 1.*production 2`"):
        erase(retired, 1)
    with retired.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 2, BEN, "it ends")
    erase(retired, 1)
    with pytest.raises(Erased), retired.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 2, BEN, "again", second=1)


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
        "UPDATE edits SET prompt = '', target = '', alternatives = '{}', rephrases = '{}', unchanged = '{}', "
        "author = '', reason = '', source = '', erased_at = now(), digest = repeat('0', 64) WHERE id = 2",
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


def test_of_two_erasures_at_once_the_second_finds_it_erased(retired):
    """Both found the edit before either had the locks."""
    with ThreadPoolExecutor(1) as thread:
        with retired.sessions.begin() as session:
            service.erase(session, [1], BEN, "first", dry_run=False)
            second = thread.submit(erase, retired, 1)
            until(lambda: retired.lock_is_awaited() or second.done())
        with pytest.raises(WrongState, match="already erased"):
            second.result(timeout=PATIENCE)
    assert retired.verify().verified["erasures"] == 1


def test_a_block_that_only_a_point_leads_to_goes_too(retired, tamper, engine):
    tamper("DELETE FROM block_edits WHERE edit_id = 1")
    assert erase(retired, 1).blocks == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT data FROM blocks WHERE id = 1")) == b""


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
