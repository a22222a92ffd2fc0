"""What verification finds beside forged rows: what was fixed, erased or signed again, and what a loader is told."""

import pytest

from registry.audit import service as audit
from registry.base.digests import event_hash
from registry.base.errors import DigestMismatch
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.erasure import service as erasure
from registry.versions import aliases
from tests.conftest import copy_of
from tests.registry.account import events, use
from tests.registry.workflow import BEN

fill = use


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


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
