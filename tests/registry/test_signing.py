"""Signed events: whoever owns the database, and has no key, cannot go on with the record unnoticed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.audit import export
from registry.audit import repository as audit
from registry.audit.chain import hashed_fields
from registry.audit.details import QueuePause
from registry.audit.signing import event_signature, public_text, signing_key
from registry.audit.trust import Signing, Trust, signing_of
from registry.base.database import make_sessions
from registry.base.digests import event_hash
from registry.base.errors import InvalidRequest, NoSigningKey
from registry.base.settings import Settings
from registry.base.vocabulary import QueueState
from registry.tables.audit import AuditEvent
from tests.conftest import copy_of
from tests.registry.workflow import Workflow, template_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NEXT = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
EVE = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNING = Signing(KEY, Trust({public_text(KEY): (0, 0)}))
FRANCE = ("What is the capital of France?", "Lyon")
PAUSE = QueuePause(before="open", after="paused")


@pytest.fixture(scope="module")
def filled(postgres, template, model_folder):
    yield from template_of(postgres, template, model_folder, lambda workflow: workflow.correct(FRANCE), signing=SIGNING)


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def signed(engine):
    """The workflow of processes that have the key."""
    return Workflow(make_sessions(engine, signing=SIGNING))


def append(workflow, details, subject="collection/facts", *, signer=None, at=None, actor="ada"):
    """Write an event as the database's owner would: rightly chained, through the triggers."""
    with workflow.sessions.begin() as session:
        tip = audit.lock_tip(session)
        event = AuditEvent(
            seq=tip.seq + 1, at=at or tip.now, actor=actor, role="admin", action=str(details.action), collection_id=1,
            subject=subject, reason="because", details=details.stored(), previous_hash=tip.hash,
        )  # fmt: skip
        event.hash = event_hash(hashed_fields(event))
        if signer is not None:
            event.signed_by, event.signature = public_text(signer), event_signature(signer, event.hash)
        session.add(event)
        return event.seq


def findings(workflow):
    return [f"{each.subject}: {each.detail}" for each in workflow.verify().findings]


def verified(workflow, trust):
    """The findings and the words on signatures of an auditor who has public keys alone."""
    with workflow.sessions() as session:
        lines = list(export.lines(session, 0))
    found = export.verify(lines, trust=trust)
    return [f"{each.subject}: {each.detail}" for each in found.findings], found


def test_every_event_is_signed_and_public_keys_alone_verify_it(signed):
    report = signed.verify()
    assert (report.ok, report.unsigned_events) == (True, 0)
    assert report.signatures == "Signatures were checked against 1 public key."
    found, told = verified(signed, Trust.read(f"# the registry's key\n{public_text(KEY)}\n"))
    assert (found, told.unsigned_events) == ([], 0)
    assert "is no key of this registry" in verified(signed, Trust.read(public_text(NEXT)))[0][0]


@pytest.mark.parametrize(
    ("signer", "expected"),
    [(None, "it is not signed"), (EVE, f"it is signed by {public_text(EVE)}, which is no key of this registry")],
)
def test_an_event_that_the_databases_owner_appends_is_named(signed, signer, expected):
    seq = append(signed, PAUSE, signer=signer)
    assert any(finding.startswith(f"event {seq}: {expected}") for finding in findings(signed))
    assert any(expected in finding for finding in verified(signed, SIGNING.trust)[0])


def test_a_signature_of_another_event_or_of_a_changed_one_does_not_fit(signed, tamper):
    seq = append(signed, PAUSE)
    tamper(
        "ALTER TABLE audit_events DROP CONSTRAINT IF EXISTS audit_events_signature_check",
        "UPDATE audit_events SET (signed_by, signature) = (SELECT signed_by, signature FROM audit_events WHERE seq = 2)"
        f" WHERE seq = {seq}",
    )
    assert f"event {seq}: its signature does not match its content" in findings(signed)


def test_an_event_of_an_earlier_time_is_named_also_where_it_is_signed(signed):
    seq = append(signed, PAUSE, signer=KEY, at=datetime.now(UTC) - timedelta(days=5))
    assert f"event {seq}: its time lies before that of the event before it" in findings(signed)


def test_times_do_not_run_backwards_where_the_clock_does(signed):
    ahead = datetime.now(UTC) + timedelta(minutes=1)
    append(signed, PAUSE, signer=KEY, at=ahead)
    signed.set_queue(QueueState.PAUSED)
    assert not any("time" in finding for finding in findings(signed))


def test_a_process_without_a_key_cannot_go_on_with_a_signed_record(signed, engine):
    without = Workflow(make_sessions(engine))
    with pytest.raises(NoSigningKey, match="nothing was changed"):
        without.set_queue(QueueState.PAUSED)
    only_public = Workflow(make_sessions(engine, signing=replace(SIGNING, signer=None)))
    with pytest.raises(NoSigningKey):
        only_public.set_queue(QueueState.PAUSED)
    assert signed.verify().ok


def test_without_a_key_the_verification_says_that_nothing_was_checked(signed, engine):
    without = Workflow(make_sessions(engine))
    report = without.verify()
    assert report.ok and report.signatures.startswith("No signature was checked, because no key is known here")


def test_a_key_that_was_replaced_counts_for_what_it_signed_and_for_nothing_later(signed, engine):
    head = signed.verify().head_seq
    old, new = public_text(KEY), public_text(NEXT)
    rotated = Signing(NEXT, Trust.read(f"{old} 1-{head}\n{new} {head + 1}-  # since the rotation"))
    after = Workflow(make_sessions(engine, signing=rotated))
    after.set_queue(QueueState.PAUSED)
    assert after.verify().ok
    assert f"event {head + 1}: it is signed by {new}, which is no key of this registry" in findings(signed)
    seq = append(after, PAUSE, signer=KEY)  # somebody kept the old key
    assert f"event {seq}: it is signed by {old}, which signed events 1 to {head} alone" in findings(after)


def test_events_from_before_the_first_key_need_none(workflow_without, engine):
    seq = workflow_without.verify().head_seq
    adopted = Signing(KEY, Trust.read(f"{public_text(KEY)} {seq + 1}-"))
    after = Workflow(make_sessions(engine, signing=adopted))
    after.set_queue(QueueState.PAUSED)
    report = after.verify()
    assert (report.ok, report.unsigned_events) == (True, seq)
    assert report.signatures == f"Signatures were checked against 1 public key from event {seq + 1} on."


@pytest.fixture
def workflow_without(engine, tamper):
    tamper("UPDATE audit_events SET signed_by = NULL, signature = NULL")
    return Workflow(make_sessions(engine))


@pytest.mark.parametrize("text", ["", "# nothing", "no-key", f"{public_text(KEY)} 1 to 5", f"{public_text(KEY)} x"])
def test_a_list_of_public_keys_that_is_none_is_told(text):
    with pytest.raises(InvalidRequest):
        Trust.read(text)


class Kms:
    """A signer that never gives its key away, as one in a KMS."""

    def public_key(self):
        return KEY.public_key()

    def sign(self, data, /):
        return KEY.sign(data)


def test_a_signer_of_ones_own_takes_the_keys_place(tmp_path):
    settings = Settings(home=tmp_path, signer="tests.registry.test_signing:Kms")
    found = signing_of(settings)
    assert isinstance(found.signer, Kms) and found.trust == SIGNING.trust
    for wrong in ("no.such:thing", "tests.registry.test_signing:SIGNING", "json:loads"):
        with pytest.raises(NoSigningKey, match="MELO_SIGNER"):
            signing_key(settings.model_copy(update={"signer": wrong}))


def test_public_keys_are_read_from_the_home_a_file_or_the_variable_itself(tmp_path):
    (tmp_path / "public-keys.txt").write_text(f"{public_text(KEY)} 1-9\n")
    assert signing_of(Settings(home=tmp_path)) == Signing(None, Trust({public_text(KEY): (1, 9)}))
    (tmp_path / "others").write_text(public_text(NEXT))
    for given in (str(tmp_path / "others"), public_text(NEXT)):
        assert signing_of(Settings(home=tmp_path, public_keys=given)).trust == Trust({public_text(NEXT): (0, 0)})
    assert signing_of(Settings(home=tmp_path / "none")) == Signing()
