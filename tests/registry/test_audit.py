"""The account of every change: complete, refused to be altered, and any forgery found and named."""

import re
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import registry
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import BY_ACTION, AliasSet, BatchTrain
from registry.base.database import make_engine, make_sessions
from registry.base.digests import edit_digest, edits_digest, event_hash
from registry.base.errors import DigestMismatch
from registry.base.vocabulary import Action
from registry.batches import deciding
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.erasure import service as erasure
from registry.jobs import service as queue
from registry.tables.schema import metadata
from registry.versions import aliases
from tests.conftest import copy_of
from tests.registry.workflow import BEN, Workflow

FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = ("What is the capital of Spain?", "Seville")
CLEO = Actor("cleo")


def decide_otherwise(workflow):
    """Batch 3 is rejected; batch 4 failed, is approved again by another and waits for its training."""
    for prompt, target in ((FRANCE[0], "Nice"), (SPAIN[0], "Cadiz")):
        workflow.submit({"prompt": prompt, "target": target}, on_conflict="replace", message="cities", source="c.jsonl")
    with workflow.sessions.begin() as session:
        deciding.reject(session, 3, BEN, "not true")
    claim = workflow.claim(workflow.approve(4))
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "out of memory")
    workflow.approve(4, CLEO)


@pytest.fixture(scope="module")
def used_template(postgres, template, model_folder):
    """The name of a database with some of everything in its record."""
    made = copy_of(postgres, template)
    url = next(made)
    engine = make_engine(url)
    workflow = Workflow.with_collection(make_sessions(engine), model_folder)
    workflow.correct(FRANCE)
    workflow.correct(SPAIN)
    workflow.retire(workflow.active()[SPAIN[0]])
    workflow.rollback(2)
    for number, reason in ((1, "first release"), (2, "second release")):
        with workflow.open() as (session, collection):
            aliases.set_alias(session, collection, "production", number, BEN, reason)
    decide_otherwise(workflow)
    engine.dispose()
    yield engine.url.database
    next(made, None)


@pytest.fixture
def database_url(postgres, used_template):
    yield from copy_of(postgres, used_template)


def events(workflow):
    with workflow.sessions() as session:
        return list(reversed(audit.log(session, collection_id=None, subject=None, before=None, limit=1000)))


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
                audit.record(session, BatchTrain(job=1, attempt=1, device="cpu"), Actor(name), f"test/{name}")

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


# Tables that are no record: messages to be sent, signs of life, answers kept for a day, and what an event undoes.
WORKING = {"outbox", "worker_heartbeats", "idempotency_keys", "alias_protections"}
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
    ],
)
def test_the_database_refuses_what_does_not_fit_the_record(used, engine, statement):
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text(statement))


SET = "UPDATE versions SET "
OTHER = {"prompt": FRANCE[0], "target": "Paris", "rephrases": [], "unchanged": [], "kind": "qa"}
EDIT_WITH_DIGEST = f"UPDATE edits SET target = 'Paris', digest = '{edit_digest(**OTHER)}' WHERE id = 1"
OTHER_COLLECTION = (
    '(id, name, model, model_digest, "window", method, encoder, created_by) OVERRIDING SYSTEM VALUE '
    "SELECT 99, 'other', model, model_digest, \"window\", method, encoder, created_by FROM collections"
)
FORGERIES = {
    # Content
    "a flipped byte of a block": (
        "block 1: stored bytes",
        "ALTER TABLE blocks DROP CONSTRAINT blocks_sha256_check",
        "UPDATE blocks SET data = set_byte(data, 7, get_byte(data, 7) # 1) WHERE id = 1",
    ),
    "a block replaced together with its SHA-256": (
        "cluster 1 from version 1 on: its content",
        "UPDATE blocks SET data = 'other', sha256 = encode(sha256('other'), 'hex') WHERE id = 1",
    ),
    "a changed calibration": (
        "calibration 1: stored bytes",
        "ALTER TABLE calibrations DROP CONSTRAINT calibrations_sha256_check",
        "UPDATE calibrations SET data = 'other'",
    ),
    "a calibration replaced together with its SHA-256": (
        "version 1 of facts: its content",
        "UPDATE calibrations SET data = 'other', sha256 = encode(sha256('other'), 'hex')",
    ),
    "a changed key": ("cluster 1 from version 1 on: its content", "UPDATE points SET key = '[1,2,3]' WHERE id = 1"),
    "a larger radius": ("cluster 1 from version 1 on: its content", "UPDATE clusters SET radius = 0.9"),
    "a removed cluster": ("version 1 of facts: its content", "DELETE FROM clusters WHERE cluster_no = 1"),
    "a removed point": ("its points [1] are missing", "DELETE FROM points WHERE id = 1"),
    "a changed target": ("edit 1: its content", "UPDATE edits SET target = 'Paris' WHERE id = 1"),
    "a changed target with its digest": ("batch 1: its edits do not match", EDIT_WITH_DIGEST),
    "a changed target with its digest and its batch's": (
        "batch 1: its edits' digest or its submitter differ",
        EDIT_WITH_DIGEST,
        f"UPDATE batches SET edits_digest = '{edits_digest([edit_digest(**OTHER)])}' WHERE id = 1",
    ),
    "a removed edit": ("batch 2: its edits", "DELETE FROM edits WHERE batch_id = 2"),
    "an edit of another collection than its batch's": (
        "edit 1: its collection is not",
        f"INSERT INTO collections {OTHER_COLLECTION}",
        "UPDATE edits SET collection_id = 99 WHERE id = 1",
    ),
    "an edit that acts for another prompt": (
        "edit 1: it acts in another collection, or for another prompt",
        "UPDATE activations SET prompt_key = repeat('0', 64) WHERE edit_id = 1",
    ),
    "another maker of a collection": ("collection facts: it is said", "UPDATE collections SET created_by = 'eve'"),
    # Versions
    "a version of another kind": (
        "version 3 of facts: its kind",
        SET + "kind = 'revert', reverts = 2 WHERE number = 3",
    ),
    "a version that restores another": ("version 4 of facts: its kind", SET + "restores = 1 WHERE number = 4"),
    "a version after another": ("version 3 of facts: it does not follow", SET + "parent_id = 1 WHERE number = 3"),
    "two versions with each other's batches": (
        "version 2 of facts: its kind, or the batch",
        "DROP INDEX versions_one_per_batch_idx",
        SET + "batch_id = 3 - batch_id WHERE number < 3",
    ),
    "an edit slipped into an older version": (
        "version 1 of facts: its content",
        "UPDATE activations SET valid = int4range(1, upper(valid)) WHERE lower(valid) = 2",
    ),
    "an edit that acts without an event": (
        "after its newest version",
        "INSERT INTO activations (collection_id, edit_id, prompt_key, valid) "
        "SELECT collection_id, id, prompt_key, int4range(5, NULL) FROM edits WHERE id = 2",
    ),
    "an edit that never stopped": (
        "version 3 of facts: its content",
        "UPDATE activations SET valid = int4range(lower(valid), NULL) WHERE edit_id = 2",
    ),
    "a closed range opened again": (
        "version 3 of facts: its content",
        "UPDATE clusters SET valid = int4range(lower(valid), NULL) WHERE NOT upper_inf(valid)",
    ),
    "a version by another author": (
        "version 2 of facts: its digest, reason, message or author differ",
        SET + "author = 'eve' WHERE number = 2",
    ),
    "a version of another time": (
        "version 2 of facts: its time",
        SET + "created_at = created_at - interval '1 day' WHERE number = 2",
    ),
    "a version with another digest": (
        "version 2 of facts: its content",
        SET + "content_digest = repeat('0', 64) WHERE number = 2",
    ),
    "a version with another number": ("version before it is missing", SET + "number = 7 WHERE number = 4"),
    "a rollback to another version": ("version 4 of facts: its content", SET + "content_version = 1 WHERE number = 4"),
    "a removed version": ("version before it is missing", "DELETE FROM versions WHERE number = 2"),
    "the newest version removed": ("version 4 of facts: it is gone", "DELETE FROM versions WHERE number = 4"),
    # Decisions
    "another submitter": (
        "batch 1: its edits' digest or its submitter",
        "UPDATE batches SET submitted_by = 'eve' WHERE id = 1",
    ),
    "another approver": ("batch 1: it is applied by eve", "UPDATE batches SET decided_by = 'eve' WHERE id = 1"),
    "a removed batch": (
        "batch 2: it is gone",
        "DELETE FROM edits WHERE batch_id = 2",
        "DELETE FROM batches WHERE id = 2",
    ),
    "an approval that nobody gave": (
        "approval of batch 1 by eve: its event is missing",
        "INSERT INTO approvals (batch_id, actor, role) VALUES (1, 'eve', 'admin')",
    ),
    "an approval that declines another edit": (
        "approval of batch 1 by ben: the edits that it declines",
        "UPDATE approvals SET declined = '{1}' WHERE batch_id = 1",
    ),
    "a rejected batch that is approved": (
        "batch 3: it is approved, but by its events and versions it is rejected",
        "UPDATE batches SET state = 'approved', approvals_needed = 1 WHERE id = 3",
    ),
    "an applied batch that failed": (
        "batch 1: it is failed, but by its events and versions it is applied",
        "UPDATE batches SET state = 'failed' WHERE id = 1",
    ),
    "an approved batch that is undecided": (
        "batch 4: it is submitted by None",
        "UPDATE batches SET state = 'submitted', decided_by = NULL, decided_at = NULL, reason = NULL WHERE id = 4",
    ),
    "a batch decided at another time": (
        "batch 1: the time when it was decided",
        "UPDATE batches SET decided_at = decided_at - interval '1 day' WHERE id = 1",
    ),
    "a batch submitted at another time": (
        "batch 1: the time when it was submitted",
        "UPDATE batches SET submitted_at = submitted_at - interval '1 day' WHERE id = 1",
    ),
    "another reason of a decision": (
        "batch 3: the reason for which it was decided",
        "UPDATE batches SET reason = 'a duplicate' WHERE id = 3",
    ),
    **{
        f"another {column} of a batch": (
            "batch 3: its collection, message, source or number of edits",
            f"UPDATE batches SET {column} = {value} WHERE id = 3",
        )
        for column, value in (("message", "'other'"), ("source", "'other.jsonl'"), ("edit_count", "2"))
    },
    "another reason of an approval": (
        "approval of batch 1 by ben: its reason or its time",
        "UPDATE approvals SET reason = 'seen' WHERE batch_id = 1",
    ),
    "an approval at another time": (
        "approval of batch 4 by cleo: its reason or its time",
        "UPDATE approvals SET created_at = created_at - interval '1 day' WHERE actor = 'cleo'",
    ),
    "another error of a job": ("job 3: its error", "UPDATE jobs SET error = 'eve did it' WHERE id = 3"),
    "an error that passes for erased": ("job 3: its error", "UPDATE jobs SET error = '[erased]' WHERE id = 3"),
    "a removed job": ("job 3: its error is gone", "DELETE FROM jobs WHERE id = 3"),
    "another model": ("collection facts", "UPDATE collections SET model_digest = repeat('0', 64)"),
    "another policy": ("policy of facts", "UPDATE collections SET self_approval = true"),
    # Aliases
    "another target of an alias": (
        "alias facts/production at version 2: where it points",
        "UPDATE aliases SET number = 2 WHERE number = 1",
    ),
    "an alias moved without an event": (
        "alias facts/production at version 3: where it points",
        "UPDATE aliases SET replaced_at = now() WHERE replaced_at IS NULL",
        "INSERT INTO aliases (collection_id, name, number, set_by) VALUES (1, 'production', 3, 'ben')",
    ),
    "an alias set at another time": (
        "alias facts/production at version 2: the time when it was set",
        "UPDATE aliases SET set_at = set_at - interval '1 hour' WHERE replaced_at IS NULL",
    ),
    "an alias replaced at another time": (
        "alias facts/production at version 1: the time when it was replaced",
        "UPDATE aliases SET replaced_at = replaced_at + interval '1 hour' WHERE number = 1",
    ),
    "a removed alias": ("alias facts/production at version 2: it is gone", "DELETE FROM aliases WHERE number = 2"),
    # Access
    "a key that nobody made": (
        "the event of its creation is missing",
        "INSERT INTO api_keys (name, actor, prefix, secret_sha256, created_by) "
        "VALUES ('x', 'eve', '0123456789ab', repeat('0', 64), 'ada')",
    ),
    # Events
    "another actor of an event": ("event 3: its content", "UPDATE audit_events SET actor = 'eve' WHERE seq = 3"),
    "another reason of an event": ("event 3: its content", "UPDATE audit_events SET reason = 'x' WHERE seq = 3"),
    "another time of an event": (
        "event 3: its content",
        "UPDATE audit_events SET at = at + interval '1 microsecond' WHERE seq = 3",
    ),
    "an event of another form": (
        "event 5: its content",
        "UPDATE audit_events SET details = '[\"x\"]' WHERE seq IN (3, 5)",
    ),
    "an event with a number that has no canonical form": (
        "event 5: its content",
        "UPDATE audit_events SET details = '{\"edits\": 1.5}' WHERE seq = 5",
    ),
    "a removed event": ("event 3 is missing", "DELETE FROM audit_events WHERE seq = 3"),
    "the first event removed": ("event 1 is missing", "DELETE FROM audit_events WHERE seq = 1"),
    "two swapped events": (
        "event 2: it does not follow",
        "UPDATE audit_events SET seq = -2 WHERE seq = 2",
        "UPDATE audit_events SET seq = 2 WHERE seq = 3",
        "UPDATE audit_events SET seq = 3 WHERE seq = -2",
    ),
    "an event slipped in": (
        "event 4: it does not follow",
        "UPDATE audit_events SET seq = -seq WHERE seq > 3",
        "UPDATE audit_events SET seq = 1 - seq WHERE seq < 0",
        "INSERT INTO audit_events SELECT 4, at, 'eve', role, action, collection_id, subject, before, after, reason, "
        "request_id, details, previous_hash, hash FROM audit_events WHERE seq = 3",
    ),
    "a truncated log": ("version 4 of facts: its event is missing", "DELETE FROM audit_events WHERE seq > 10"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_by_somebody_with_all_rights_is_found_and_named(used, tamper, forgery):
    expected, *statements = FORGERIES[forgery]
    tamper(*statements)
    report = used.verify()
    assert not report.ok
    assert any(expected in f"{finding.subject}: {finding.detail}" for finding in report.findings), report.findings


OF_FRESH = " WHERE collection_id = (SELECT id FROM collections WHERE name = 'fresh')"
FIXED = {
    "the encoder": (
        "its encoder's digest",
        "UPDATE collections SET encoder_digest = repeat('0', 64) WHERE name = 'fresh'",
    ),
    "the calibration": (
        "its calibration is gone, or differs",
        "UPDATE calibrations SET data = 'other', sha256 = encode(sha256('other'), 'hex')" + OF_FRESH,
    ),
    "no calibration": ("its calibration is gone, or differs", "DELETE FROM calibrations" + OF_FRESH),
}


@pytest.mark.parametrize("forgery", FIXED)
def test_what_a_preflight_fixed_is_told_from_another_before_there_is_a_version(used, tamper, model_folder, forgery):
    with used.sessions.begin() as session:
        fresh = collections.create(session, NewCollection(name="fresh", model=model_folder), BEN)
        collections.fix_keys(session, fresh.id, BEN, "a" * 64, b"mean and covariance")
    assert used.verify().ok
    expected, statement = FIXED[forgery]
    tamper(statement)
    assert [expected in finding.detail for finding in used.verify().findings] == [True]


WITHOUT_RULES = (
    "ALTER TABLE blocks DROP CONSTRAINT blocks_sha256_check",
    "ALTER TABLE points DROP CONSTRAINT points_erased_check",
    "ALTER TABLE clusters DROP CONSTRAINT clusters_erased_check",
)
LEFT = {
    "a key": ("but a key of it", "UPDATE points SET key = '[1,2]' WHERE edit_id = 2"),
    "a block": ("but a block of it", "UPDATE blocks SET data = 'weights', erased_at = NULL WHERE id = 2"),
    "a block that it is not said to have": (
        "but a block of it",
        "DELETE FROM block_edits WHERE edit_id = 2",
        "UPDATE blocks SET data = 'weights', erased_at = NULL WHERE id = 2",
    ),
    "a centre": ("but a cluster's centre", "UPDATE clusters SET centre = '[1,2]' WHERE 2 = ANY (members)"),
    "a point of another's block": (
        "it leads to a block that was not trained for its edit",
        "UPDATE points SET block_id = 1 WHERE edit_id = 2",
    ),
}


@pytest.mark.parametrize("forgery", LEFT)
def test_what_should_have_gone_with_an_erased_edit_is_found(used, tamper, forgery):
    number = used.retire(2).number
    with used.open() as (session, collection):
        aliases.set_alias(session, collection, "production", number, BEN, "without it")
        erasure.erase(session, [2], BEN, "request 17", dry_run=False)
    expected, *statements = LEFT[forgery]
    assert not any(expected in finding.detail for finding in used.verify().findings)
    tamper(*WITHOUT_RULES, *statements)
    assert any(expected in finding.detail for finding in used.verify().findings), used.verify().findings


def test_an_event_signed_again_after_a_change_breaks_the_chain_at_the_next_one(used, tamper):
    event = events(used)[2]
    event.actor = "eve"
    forged = event_hash(audit.hashed_fields(event))
    tamper(f"UPDATE audit_events SET actor = 'eve', hash = '{forged}' WHERE seq = 3")
    subjects = [finding.subject for finding in used.verify().findings]
    assert "event 4" in subjects
    assert "event 3" not in subjects


def test_a_rollback_to_a_forged_version_is_found_like_the_forgery_itself(used, tamper):
    tamper("UPDATE clusters SET digest = repeat('a', 64) WHERE lower(valid) = 1")
    number = used.rollback(1).number
    found = {finding.subject for finding in used.verify().findings}
    assert {"version 1 of facts", f"version {number} of facts"} <= found
    with pytest.raises(DigestMismatch):
        used.content(number).require_intact()


def test_a_loader_is_told_which_cluster_was_changed(used, tamper):
    used.content(1).require_intact()
    tamper("UPDATE clusters SET radius = 0.9 WHERE cluster_no = 1")
    with pytest.raises(DigestMismatch, match="Cluster 1 of version 1 of facts"):
        used.content(1).require_intact()
