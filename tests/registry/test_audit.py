"""The account of every change: complete, and refused to be altered."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import registry
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import BY_ACTION, AliasSet, BatchTrain
from registry.base.digests import edits_digest
from registry.base.vocabulary import Action
from registry.tables.schema import metadata
from tests.conftest import copy_of
from tests.operators_key import SECRET
from tests.registry.account import events, use
from tests.registry.workflow import BEN

fill = use


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


def test_every_change_of_state_leaves_an_event(used):
    assert [event.action for event in events(used)] == [
        "registry:collection:create",
        *["collection:batch:submit", "collection:batch:approve", "collection:batch:train", "collection:version:apply"]
        * 2,
        "collection:version:retire",
        "collection:version:rollback",
        "collection:alias:set",
        "collection:alias:set",
        "collection:batch:submit",
        "collection:batch:submit",
        "collection:batch:reject",
        *["collection:batch:approve", "collection:batch:train", "collection:batch:fail", "collection:batch:approve"],
    ]


WRITERS = Path(registry.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "audit.md"
WRITING = ("audit.record(", "events.record(", "record_decision(")


@pytest.mark.parametrize("action", Action)
def test_every_word_of_the_vocabulary_is_written_by_a_service_and_told_in_the_documentation(action):
    """The services' own tests show when each is written; a word without a writer would be a gap in the log."""
    sources = [path.read_text() for path in WRITERS.rglob("*.py")]
    writing = [source for source in sources if any(call in source for call in WRITING)]
    assert any(re.search(rf"\b{BY_ACTION[action].__name__}\b", source) for source in writing)
    assert f"`{action}`" in DOCS.read_text()


def test_the_event_of_a_batch_covers_its_edits_by_one_digest(used):
    submission = next(event for event in events(used) if event.subject == "batch/1")
    with used.sessions() as session:
        digests = session.execute(text("SELECT digest FROM edits WHERE batch_id = 1 ORDER BY position")).scalars()
        assert submission.after == edits_digest(digests)


def test_an_event_says_who_what_why_and_from_what_to_what(used):
    rollback = next(event for event in events(used) if event.action == "collection:version:rollback")
    applied = [event for event in events(used) if event.action == "collection:version:apply"]
    assert (rollback.actor, rollback.subject, rollback.reason) == ("ben", "version/facts/4", "worked better")
    assert rollback.after == applied[1].after != rollback.before
    assert applied[0].details["approved_by"] == "ben"
    assert applied[0].details["submitted_by"] == "ada"
    assert applied[0].actor == "worker/w1"


def test_an_untouched_record_verifies(used):
    report = used.verify()
    assert (report.ok, report.findings) == (True, [])
    assert report.verified["events"] == len(events(used)) == report.head_seq
    assert report.verified["blocks"] == 2
    assert report.verified["versions"] == 4


def test_a_change_that_is_rolled_back_leaves_no_event(used):
    before = len(events(used))
    with used.sessions() as session:
        audit.record(session, AliasSet(from_=None, to=1, set_at="now"), BEN, "alias/facts/x")
        session.rollback()
    assert len(events(used)) == before


def test_events_written_at_once_form_one_chain(used):
    before = events(used)

    def write(name):
        for _ in range(5):
            with used.sessions.begin() as session:
                audit.record(session, BatchTrain(job=77, attempt=1, device="cpu"), Actor(name), f"test/{name}")

    threads = [threading.Thread(target=write, args=(f"a{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in events(used)] == list(range(1, len(before) + 41))
    assert used.verify().ok


def test_details_with_a_float_are_refused_because_their_text_is_not_canonical(used):
    with pytest.raises(TypeError, match="no canonical form"), used.sessions.begin() as session:
        audit.record(session, AliasSet(from_=None, to=0.1, set_at="now"), BEN, "test/1")


# Tables that are no record: messages to be sent, signs of life, responses kept for a day, what an event undoes, and
# what is kept for as long as a policy says.
WORKING = {"outbox", "worker_heartbeats", "idempotency_keys", "alias_protections", "answers", "feedback"}
RECORD = sorted(table.name for table in metadata.sorted_tables if table.name not in WORKING)


@pytest.mark.parametrize("table", RECORD)
def test_nothing_that_is_recorded_can_be_deleted(used, engine, table):
    for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        with pytest.raises(DBAPIError, match="refused"), engine.begin() as connection:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET reason = 'another'",
        "UPDATE blocks SET loss = 0",
        "UPDATE points SET role = 'rephrase'",
        "UPDATE edits SET target = 'another'",
        "UPDATE versions SET message = 'another'",
        "UPDATE calibrations SET data = ''",
        "UPDATE collections SET model = 'another'",
        "UPDATE collections SET method = '{}'",
        "UPDATE collections SET encoder_digest = repeat('0', 64)",
        "UPDATE batches SET submitted_by = 'another'",
        "UPDATE batches SET state = 'submitted', decided_by = NULL, decided_at = NULL",
        "UPDATE clusters SET radius = 99",
        "UPDATE clusters SET valid = int4range(lower(valid), NULL)",
        "UPDATE clusters SET valid = int4range(lower(valid) + 1, 9) WHERE upper_inf(valid)",
        "UPDATE activations SET edit_id = edit_id + 1, valid = int4range(lower(valid), 9) WHERE upper_inf(valid)",
        "UPDATE aliases SET number = 3",
        "UPDATE aliases SET number = 3, replaced_at = now() WHERE replaced_at IS NULL",
        "UPDATE aliases SET replaced_at = NULL",
    ],
)
def test_the_database_refuses_to_change_what_is_recorded(used, engine, statement):
    with pytest.raises(DBAPIError, match="refused"), engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO versions (collection_id, number, parent_id, kind, author, content_digest, edit_count) "
        "SELECT collection_id, number + 2, id, 'retire', 'x', content_digest, 0 FROM versions WHERE number = 4",
        "INSERT INTO versions (collection_id, number, parent_id, kind, author, content_digest, edit_count) "
        "SELECT collection_id, 5, id, 'retire', 'x', content_digest, 0 FROM versions WHERE number = 3",
        "INSERT INTO audit_events SELECT seq + 2, at, actor, role, action, collection_id, subject, before, after, "
        "reason, request_id, details, hash, hash FROM audit_events ORDER BY seq DESC LIMIT 1",
        "INSERT INTO audit_events SELECT seq + 1, at, actor, role, action, collection_id, subject, before, after, "
        "reason, request_id, details, previous_hash, hash FROM audit_events ORDER BY seq DESC LIMIT 1",
        "INSERT INTO activations (collection_id, edit_id, prompt_key, valid) "
        "SELECT collection_id, edit_id, 'x', int4range(1, 3) FROM activations LIMIT 1",
        "INSERT INTO aliases (collection_id, name, number, set_by) SELECT id, 'latest', 1, 'x' FROM collections",
        "INSERT INTO aliases (collection_id, name, number, set_by) SELECT id, '17', 1, 'x' FROM collections",
        "INSERT INTO aliases (collection_id, name, number, set_by) SELECT id, 'staging', 99, 'x' FROM collections",
        *(
            f"INSERT INTO aliases (collection_id, name, number, second, share, set_by) "
            f"SELECT id, 'staging', 1, {second}, {share}, 'x' FROM collections"
            for second, share in (("99", "0.5"), ("1", "0.5"), ("2", "1"), ("2", "0"), ("NULL", "0.5"))
        ),
    ],
)
def test_the_database_refuses_what_does_not_fit_the_record(used, engine, statement):
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text(statement))


FULL = """
import resource, sys
from cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.argv = ["melo", *sys.argv[1:]]
main()
"""


def test_an_export_that_is_cut_short_leaves_no_file(used, served, tmp_path):
    """By a disk that is full."""
    out = tmp_path / "events.jsonl"
    command = [sys.executable, "-c", FULL, "--api-url", served, "audit", "export", "--out", str(out)]
    environment = os.environ | {"MELO_HOME": str(tmp_path / "home"), "MELO_API_KEY": SECRET.get_secret_value()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "The file cannot be written" in done.stderr, done.stderr
    assert list(tmp_path.glob("*events*")) == []
