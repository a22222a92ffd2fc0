"""Any forgery by somebody with all rights is found and named."""

import pytest

from registry.base.digests import edit_digest, edits_digest
from tests.conftest import copy_of
from tests.registry.account import FRANCE, use

fill = use


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


SET = "UPDATE versions SET "
OTHER = {"prompt": FRANCE[0], "target": "Paris", "alternatives": [], "rephrases": [], "unchanged": [], "kind": "qa"}
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
    "an edit that acts in the base model": (
        "collection facts: 1 times an edit or a cluster begins before version 1",
        "ALTER TABLE activations DROP CONSTRAINT activations_valid_check",
        "UPDATE activations SET valid = int4range(0, upper(valid)) WHERE edit_id = 1",
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
    "another digest of a file of the model": (
        "collection facts",
        """UPDATE collections SET model_files = model_files || '{"config.json": "%s"}'""" % ("0" * 64),
    ),
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
    "another share of a canary": (
        "alias facts/production at version 2: its second version, or the share",
        "UPDATE aliases SET share = 0.9 WHERE number = 2",
    ),
    "another canary": (
        "alias facts/production at version 2: its second version, or the share",
        "UPDATE aliases SET second = 4 WHERE number = 2",
    ),
    "a canary that passes for a shadow": (
        "alias facts/production at version 2: its second version, or the share",
        "UPDATE aliases SET share = NULL WHERE number = 2",
    ),
    "a canary that nobody began": (
        "alias facts/production at version 1: its second version, or the share",
        "UPDATE aliases SET second = 2, share = 0.5 WHERE number = 1",
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
