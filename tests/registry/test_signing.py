"""Signed events: whoever owns the database, and has no key, cannot go on with the record unnoticed."""

import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event as events
from sqlalchemy import select

from registry.access import service as access
from registry.access.keys import KeyText
from registry.access.repository import roles_of
from registry.access.schemas import NewKey
from registry.audit import export, rotation
from registry.audit import repository as audit
from registry.audit.chain import hashed_fields
from registry.audit.details import (
    AliasSet,
    BatchApprove,
    KeyCreate,
    Policy,
    PolicyChange,
    QueuePause,
    SignerReplace,
)
from registry.audit.signing import event_signature, made_key, public_text, signing_key
from registry.audit.trust import Signing, Trust, signing_of
from registry.base.database import make_sessions
from registry.base.digests import event_hash, work_digest
from registry.base.errors import InvalidRequest, NoSigningKey, Unauthorized, Unverified
from registry.base.settings import Settings
from registry.base.vocabulary import QueueState
from registry.tables.access import ApiKey
from registry.tables.audit import AuditEvent
from registry.tables.jobs import Job
from registry.versions import aliases, reading
from tests.conftest import copy_of
from tests.registry.workflow import ADA, BEN, Workflow, template_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NEXT = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
EVE = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNING = Signing(KEY, Trust({public_text(KEY): (0, 0)}))
FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = {"prompt": "What is the capital of Spain?", "target": "Seville"}
POLICY = Policy(
    approvals_needed=1, approvers=[], self_approval=False, preflight="none", left_alone_needed=None,
    preflight_limits={}, log_share="0x0.0p+0", log_text=False, log_days=30,
)  # fmt: skip
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


def append(
    workflow, details, subject="collection/facts", *, signer=None, at=None, actor="ada", digest=None, after=None
):
    """Write an event as the database's owner would: rightly chained, through the triggers."""
    with workflow.sessions.begin() as session:
        tip = audit.lock_tip(session)
        event = AuditEvent(
            seq=tip.seq + 1, at=at or tip.now, actor=actor, role="admin", action=str(details.action), collection_id=1,
            subject=subject, before=digest, after=after or digest, reason="because", details=details.stored(),
            previous_hash=tip.hash,
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


def rotated(workflow, new=NEXT):
    """Replace the key. Returns the last event of the old one."""
    with workflow.sessions.begin() as session:
        return rotation.replace(session, public_text(new), ADA, "once a year")


def process(engine, key, *lines):
    """The workflow of processes with this key, and with these lines in their list of public keys."""
    own = {public_text(key): (0, 0)}
    return Workflow(make_sessions(engine, signing=Signing(key, Trust(own | Trust.read("\n".join(lines)).keys))))


def test_a_key_signs_that_another_takes_its_place_and_nothing_after_that(signed, engine, tmp_path):
    last = rotated(signed)
    assert rotated(signed) == last  # as after an interruption: nothing is written twice
    with pytest.raises(NoSigningKey, match=f"was replaced at event {last}: nothing was changed"):
        signed.set_queue(QueueState.PAUSED)
    old, new = public_text(KEY), public_text(NEXT)
    after = process(engine, NEXT, f"{old} 1-{last}")
    after.set_queue(QueueState.PAUSED)
    with pytest.raises(NoSigningKey, match="was replaced"):
        signed.set_queue(QueueState.OPEN)
    for known in (old, f"{old}\n{new}", f"{old} 1-{last}\n{new} {last + 1}-"):  # the first key leads to the others
        assert verified(after, Trust.read(known))[0] == []
    assert after.verify().ok

    stolen = append(after, PAUSE, signer=KEY)
    assert f"event {stolen}: it is signed by {old}, which signed events 1 to {last} alone" in findings(after)
    for known in (old, f"{old}\n{new}"):  # also where the list sets no limit
        assert any(
            each.startswith(f"event {stolen}: it is signed by {old}") for each in verified(after, Trust.read(known))[0]
        )


def test_a_key_that_was_in_use_before_does_not_come_again(signed, engine):
    last = rotated(signed)
    after = process(engine, NEXT, f"{public_text(KEY)} 1-{last}")
    for again in (KEY, NEXT):
        with pytest.raises(InvalidRequest, match="is a key of this registry already"):
            rotated(after, again)


@pytest.mark.parametrize("signer", [None, EVE])
def test_nobody_without_the_key_names_its_successor(signed, signer):
    """Neither are the processes that have the key stopped by it, nor is the other key taken."""
    told = SignerReplace(from_=public_text(KEY), to=public_text(EVE))
    append(signed, told, "signer", signer=signer)
    forged = append(signed, PAUSE, signer=EVE)
    signed.set_queue(QueueState.PAUSED)
    named = f"event {forged}: it is signed by {public_text(EVE)}, which is no key of this registry"
    assert named in findings(signed) and named in verified(signed, SIGNING.trust)[0]


def test_a_successor_that_was_changed_in_the_event_is_not_taken(signed, tamper):
    last = rotated(signed)
    other = public_text(EVE)
    tamper(f"UPDATE audit_events SET details = jsonb_set(details, '{{to}}', '\"{other}\"') WHERE seq = {last}")
    forged = append(signed, PAUSE, signer=EVE)
    assert f"event {forged}: it is signed by {other}, which is no key of this registry" in findings(signed)


def test_in_a_home_the_next_key_takes_the_old_ones_place_and_the_old_one_is_listed(signed, engine, tmp_path):
    old = made_key(tmp_path)
    (tmp_path / "public-keys.txt").write_text(
        f"# begun late\n{public_text(old)} 121-  # the first\n{public_text(EVE)} 1-9"
    )
    known = signing_of(Settings(home=tmp_path))
    new = rotation.next_key(tmp_path, store=True)
    assert public_text(rotation.next_key(tmp_path, store=True)) == public_text(new)
    rotation.store(tmp_path, known.trust, public_text(old), public_text(new), 500)
    after = signing_of(Settings(home=tmp_path))
    assert public_text(after.signer) == public_text(new)
    assert after.trust.keys == {
        public_text(EVE): (1, 9), public_text(old): (121, 500), public_text(new): (501, 0),
    }  # fmt: skip
    assert (tmp_path / "public-keys.txt").read_text().startswith("# begun late\n")
    assert stat.S_IMODE((tmp_path / "signing-key.pem").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"signing-key.pem", "public-keys.txt"}


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


# What a signature decides


def forged_approval(workflow, tamper, *, events=True):
    """Have cleo approve batch 2, as the database's owner can: every row in its place, and events rightly chained."""
    digest = workflow.submit(SPAIN).batch.edits_digest
    with workflow.sessions() as session:
        job = session.scalars(select(Job)).one()
        work = work_digest(job.seed, job.settings)
    tamper(
        "INSERT INTO approvals (batch_id, actor, role, reason) VALUES (2, 'cleo', 'admin', 'because')",
        "UPDATE batches SET state = 'approved', decided_by = 'cleo', decided_at = now(), reason = 'because', "
        "approvals_needed = 1 WHERE id = 2",
        "INSERT INTO jobs (batch_id, collection_id, kind, state, seed, settings) "
        "SELECT 2, collection_id, kind, 'queued', seed, settings FROM jobs WHERE id = 1",
    )
    told = BatchApprove(
        submitted_by="ada", approval=2, declined=[], approvals=["cleo"], approvals_needed=1, cancelled_preflights=[],
        job=2, work=work,
    )  # fmt: skip
    if events:
        append(workflow, told, "batch/2", actor="cleo", digest=digest)


def error_of(workflow, job_id):
    with workflow.sessions() as session:
        job = session.get(Job, job_id)
        return f"{job.state}: {job.error}"


@pytest.mark.parametrize(
    ("events", "expected"), [(True, "it is not signed"), (False, "no event says that it was approved for job 2")]
)
def test_a_training_that_nobody_with_a_key_approved_is_not_begun(signed, tamper, events, expected):
    forged_approval(signed, tamper, events=events)
    assert signed.claim(2) is None
    assert error_of(signed, 2).startswith("failed: ") and expected in error_of(signed, 2)


def test_without_a_key_the_same_training_is_begun(workflow_without, tamper):
    forged_approval(workflow_without, tamper)
    assert workflow_without.claim(2) is not None


@pytest.mark.parametrize(
    ("forgery", "expected"),
    [
        ("UPDATE edits SET target = 'Rome' WHERE id = 2", "edit 2 was changed since it was submitted"),
        ("UPDATE edits SET replaces = 1 WHERE id = 2", "edit 2 was changed since it was submitted"),
        ("UPDATE jobs SET seed = 7 WHERE id = 2", "the seed or the settings of its job differ"),
        ("UPDATE jobs SET settings = '{}' WHERE id = 2", "the seed or the settings of its job differ"),
        ("UPDATE approvals SET declined = '{2}' WHERE batch_id = 2", "the edits left out of it differ"),
        ("DELETE FROM audit_events WHERE subject = 'batch/2' AND actor = 'ben'", "no event says that it was approved"),
    ],
)
def test_a_training_of_something_else_than_was_approved_is_not_begun(signed, tamper, forgery, expected):
    signed.submit(SPAIN, {"prompt": "What is the capital of Peru?", "target": "Cusco"})
    signed.approve(2)
    signed.submit({"prompt": "What is the capital of Chile?", "target": "Arica"})
    tamper(forgery)
    assert signed.claim(2) is None
    assert expected in error_of(signed, 2)


def test_an_approval_that_was_taken_back_is_not_trained_after_all(signed, tamper):
    signed.submit(SPAIN)
    signed.approve(2)
    signed.cancel(2)
    tamper(
        "UPDATE batches SET state = 'approved', decided_by = 'ben' WHERE id = 2",
        "UPDATE jobs SET state = 'queued', finished_at = NULL WHERE id = 2",
    )
    assert signed.claim(2) is None
    assert "no event says that it was approved for job 2" in error_of(signed, 2)


def test_what_was_approved_is_verified_again_before_it_acts(signed, tamper):
    signed.submit(SPAIN)
    claim = signed.claim(signed.approve(2))
    tamper("UPDATE edits SET replaces = 1 WHERE id = 2")
    with pytest.raises(Unverified, match="edit 2 was changed"):
        signed.finish(claim)


def test_no_batch_is_approved_under_a_policy_that_nobody_with_a_key_made(signed, tamper):
    signed.submit(SPAIN)
    tamper("UPDATE collections SET self_approval = true")
    with pytest.raises(Unverified, match="its self_approval differ from event 1"):
        signed.approve(2, ADA)
    append(signed, PolicyChange(before=POLICY, after=replace(POLICY, self_approval=True)))
    with pytest.raises(Unverified, match="it is not signed"):
        signed.approve(2, ADA)


@pytest.fixture
def released(signed):
    """An alias at the first of two versions."""
    signed.correct((SPAIN["prompt"], SPAIN["target"]))
    with signed.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 1, BEN, "released")
    return signed


def served(workflow, name="facts@production"):
    with workflow.sessions() as session:
        found = reading.resolve(session, name)
        return reading.content(session, found.collection, found.number).number


@pytest.mark.parametrize(
    ("forgery", "expected"),
    [
        ("UPDATE aliases SET number = 2", "its row says version 2, and event"),
        ("UPDATE aliases SET second = 2", "its row says version 1, and event"),
        ("UPDATE aliases SET second = 2, share = 0.5", "its row says version 1, and event"),
        ("DELETE FROM aliases", "its row is gone, and event"),
        ("DELETE FROM audit_events WHERE subject = 'alias/facts/production'", "no event tells of it"),
        ("UPDATE audit_events SET signature = NULL, signed_by = NULL WHERE subject LIKE 'alias/%'", "it is not signed"),
        ("UPDATE audit_events SET reason = 'x' WHERE subject LIKE 'alias/%'", "its content does not match its hash"),
        ("UPDATE versions SET content_digest = repeat('0', 64) WHERE number = 1", "its row says version 1, and event"),
    ],
)
def test_an_alias_is_not_followed_where_its_last_event_does_not_verify_or_says_something_else(
    released, engine, tamper, forgery, expected
):
    assert served(released) == 1
    tamper(forgery)
    with pytest.raises(Unverified, match=f"facts@production is not followed: .*{expected}"):
        served(released)
    if "DELETE FROM aliases" not in forgery:
        assert served(Workflow(make_sessions(engine))) in (1, 2)  # without a key nothing can be said of it


@pytest.mark.parametrize(
    ("forgery", "expected"),
    [
        ("UPDATE versions SET content_digest = repeat('0', 64) WHERE number = 2", "its digest differs from event"),
        ("DELETE FROM audit_events WHERE subject = 'version/facts/2'", "no event tells of it"),
        ("UPDATE audit_events SET signature = NULL, signed_by = NULL WHERE subject = 'version/facts/2'", "not signed"),
    ],
)
def test_a_version_is_not_served_where_no_signed_event_tells_of_its_content(released, tamper, forgery, expected):
    assert served(released, "facts@latest") == 2
    tamper(forgery)
    for name in ("facts@latest", "facts@2"):
        with pytest.raises(Unverified, match=f"Version 2 of facts is not served: .*{expected}"):
            served(released, name)
    assert served(released) == 1


def test_following_an_alias_costs_one_query_more_where_a_key_is_known(released, engine):
    def statements(sessions):
        found = []

        def note(*given):
            found.append(given[2])

        with sessions() as session:
            events.listen(engine, "before_cursor_execute", note)
            reading.resolve(session, "facts@production")
            events.remove(engine, "before_cursor_execute", note)
        return len(found)

    assert statements(released.sessions) - statements(make_sessions(engine)) == 1


def test_an_alias_of_another_time_says_that_its_event_does_not_verify(signed, tamper):
    with signed.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 1, BEN, "released")
    moment = datetime.now(UTC) - timedelta(days=5)
    tamper(
        "INSERT INTO aliases (collection_id, name, number, set_by, reason, set_at, replaced_at) "
        f"SELECT 1, 'production', 1, 'cleo', 'because', '{moment.isoformat()}', set_at FROM aliases",
    )

    def at(time):
        with signed.open() as (session, collection):
            (view,) = aliases.views(session, collection, [aliases.pointed_at(session, collection, "production", time)])
            return view.set_by, view.unverified

    assert at(datetime.now(UTC)) == ("ben", None)
    assert at(moment + timedelta(days=1)) == ("cleo", "no event tells of it")
    told = AliasSet(from_=None, to=1, set_at=moment.isoformat(timespec="microseconds"))
    seq = append(signed, told, "alias/facts/production", actor="cleo", at=moment)
    expected = f"event {seq}: it is not signed: somebody without the registry's key wrote it"
    assert at(moment + timedelta(days=1)) == ("cleo", expected)


def test_a_key_that_nobody_with_a_key_made_admits_nobody(signed, tamper):
    def admitted(text):
        with signed.sessions.begin() as session:
            return access.authenticate(session, text).actor

    with signed.sessions.begin() as session:
        own = access.create(session, NewKey(name="ci", roles=[{"role": "viewer"}]), ADA).key
    assert admitted(own) == "ci"
    tamper("UPDATE api_key_roles SET role = 'admin'")
    with pytest.raises(Unauthorized, match="no event tells of it as it is"):
        admitted(own)
    tamper("UPDATE api_key_roles SET role = 'viewer'")
    with signed.sessions.begin() as session:
        access.revoke(session, 1, ADA, "lost")
    tamper("UPDATE api_keys SET revoked_at = NULL, revoked_by = NULL")
    with pytest.raises(Unauthorized, match="does not verify"):
        admitted(own)

    forged = KeyText.new()
    tamper(
        "INSERT INTO api_keys (name, actor, prefix, secret_sha256, created_by) "
        f"VALUES ('x', 'eve', '{forged.prefix}', '{forged.sha256}', 'ada')",
        "INSERT INTO api_key_roles (key_id, role) VALUES (2, 'admin')",
    )
    told = KeyCreate(name="x", actor="eve", prefix=forged.prefix, roles=[], expires_at=None)
    with signed.sessions() as session:
        digest = access.key_digest(session.get(ApiKey, 2), roles_of(session, [2]))
    append(signed, told, "key/2", after=digest)
    with pytest.raises(Unauthorized, match="it is not signed"):
        admitted(forged.text)
