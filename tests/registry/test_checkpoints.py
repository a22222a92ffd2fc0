"""Signed heads and exported events: what catches a record that was cut off or written anew as a whole."""

import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from registry.audit import checkpoint as checkpoints
from registry.audit import export
from registry.audit import service as audit
from registry.audit.chain import hashed_fields
from registry.audit.signing import is_signed, made_key, public_key, public_text, signing_key
from registry.base.digests import event_hash
from registry.base.errors import InvalidRequest, NoSigningKey
from registry.base.settings import Settings
from tests.conftest import copy_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = ("What is the capital of Spain?", "Seville")


def fill(workflow):
    workflow.correct(FRANCE)
    workflow.retire(workflow.active()[FRANCE[0]])


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


def signed_head(workflow):
    with workflow.sessions.begin() as session:
        return checkpoints.make(session, KEY)


def findings(workflow, checkpoint, key=None):
    with workflow.sessions.begin() as session:
        found = [*checkpoints.unsigned(checkpoint, key), *checkpoints.compare(session, checkpoint)]
    return [f"{each.subject}: {each.detail}" for each in found]


def forge_the_whole_chain(workflow, tamper):
    """Change the first event, and hash every event after it anew."""
    with workflow.sessions() as session:
        events = list(reversed(audit.log(session, collection_id=None, subject=None, before=None, limit=1000)))
    previous = "0" * 64
    statements = []
    for event in events:
        event.actor = "eve" if event.seq == 1 else event.actor
        event.previous_hash = previous
        previous = event_hash(hashed_fields(event))
        statements.append(
            f"UPDATE audit_events SET actor = '{event.actor}', previous_hash = '{event.previous_hash}', "
            f"hash = '{previous}' WHERE seq = {event.seq}"
        )
    tamper(*statements)


def test_a_record_that_went_on_is_a_continuation_of_its_checkpoint(used):
    head = signed_head(used)
    used.correct(SPAIN)
    assert findings(used, head, public_text(KEY)) == []


def test_making_a_checkpoint_leaves_no_event(used):
    first, second = signed_head(used), signed_head(used)
    assert (first.seq, first.hash, first.counts) == (second.seq, second.hash, second.counts)
    assert first.counts["edits"] == 1
    assert first.counts["audit_events"] == first.seq


def test_a_chain_written_anew_from_its_beginning_verifies_by_itself_but_not_against_a_checkpoint(used, tamper):
    head = signed_head(used)
    forge_the_whole_chain(used, tamper)
    assert not [finding for finding in used.verify().findings if finding.subject.startswith("event")]
    assert any("were written anew" in finding for finding in findings(used, head))


def test_a_tail_that_was_cut_off_together_with_its_rows_is_found_by_a_checkpoint_alone(used, tamper):
    with used.sessions() as session:
        last = audit.log(session, collection_id=None, subject=None, before=None, limit=1)[0].seq
    used.submit({"prompt": SPAIN[0], "target": SPAIN[1]})
    head = signed_head(used)
    tamper(
        f"DELETE FROM audit_events WHERE seq > {last}",
        "DELETE FROM jobs WHERE batch_id = 2",
        "DELETE FROM edits WHERE batch_id = 2",
        "DELETE FROM batches WHERE id = 2",
    )
    assert used.verify().ok
    found = findings(used, head)
    assert any("the end was cut off" in finding for finding in found)
    assert any("edits had 2 rows, and has 1" in finding for finding in found)


def test_an_event_that_claims_to_be_older_than_the_checkpoint_before_it_is_found(used, tamper):
    head = signed_head(used)
    used.submit({"prompt": SPAIN[0], "target": SPAIN[1]})
    assert findings(used, head) == []
    tamper(f"UPDATE audit_events SET at = at - interval '5 days' WHERE seq = {head.seq + 1}")
    assert any("lies before the checkpoint" in finding for finding in findings(used, head))
    found = [f"{each.subject}: {each.detail}" for each in export.verify(exported(used), head).findings]
    assert any("lies before the checkpoint" in finding for finding in found)
    assert any("lies before that of the event before it" in finding for finding in found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seq": 1}, "its signature does not match"),
        ({"hash": "0" * 64}, "its signature does not match"),
        ({"counts": {}}, "its signature does not match"),
        ({"registry": "another"}, "it is of the registry another"),
        ({"public_key": public_text(Ed25519PrivateKey.generate())}, "another key signed it"),
        ({"format": "melo-checkpoint/9"}, "its form is"),
    ],
)
def test_a_forged_checkpoint_is_refused(used, change, expected):
    head = signed_head(used).model_copy(update=change)
    assert any(expected in finding for finding in findings(used, head, public_text(KEY)))


def test_the_signature_can_be_verified_without_this_program(used):
    """It is over the JSON of all other fields, with sorted keys and no spaces."""
    content = signed_head(used).model_dump()
    signature = content.pop("signature")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert is_signed({**json.loads(text), "signature": signature}, KEY.public_key())


def exported(workflow, since=0):
    with workflow.sessions() as session:
        return list(export.lines(session, since))


def test_an_exported_file_verifies_without_a_database(used):
    lines = exported(used)
    found = export.verify(lines, signed_head(used))
    assert (found.ok, found.findings, found.first_seq) == (True, [], 1)
    assert found.verified["events"] == found.head_seq == len(lines)


def test_a_file_that_begins_later_is_verified_from_there_and_joins_the_checkpoint_before_it(used):
    head = signed_head(used)
    used.correct(SPAIN)
    lines = exported(used, since=head.seq)
    found = export.verify(lines, head)
    assert (found.ok, found.first_seq) == (True, head.seq + 1)
    assert not export.verify(lines, head.model_copy(update={"hash": "0" * 64})).ok


@pytest.mark.parametrize(
    ("forge", "expected"),
    [
        (lambda lines: [lines[0].replace(b"ada", b"eve"), *lines[1:]], "event 1: its content does not match its hash"),
        (lambda lines: [*lines[:2], *lines[3:]], "event 4: event 3 is missing before it"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "event 3: event 2 is missing before it"),
        (lambda lines: lines[:-1], "the end was cut off"),
        (
            lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]],
            "event 1: its form is 2, and this program reads 1",
        ),
    ],
)
def test_a_forged_file_is_found(used, forge, expected):
    found = export.verify(forge(exported(used)), signed_head(used))
    assert any(expected in f"{each.subject}: {each.detail}" for each in found.findings)


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"seq": "1", "previous_hash": ""}\n', b'{"seq": 1.5}\n'])
def test_a_file_that_holds_no_events_is_refused_by_the_line(line):
    with pytest.raises(InvalidRequest, match="Line 1"):
        export.verify([line])


def test_a_file_that_says_something_twice_is_refused(used):
    first, *rest = exported(used)
    for twice in (
        first.replace(b'"actor":', b'"actor":"eve","actor":'),
        first.replace(b'"details":{', b'"details":{"model":"x",'),
    ):
        with pytest.raises(InvalidRequest, match=r"Line 1 says '(actor|model)' twice"):
            export.verify([twice, *rest])


def test_the_key_is_made_once_in_the_home_and_only_its_owner_can_read_it(tmp_path):
    settings = Settings(home=tmp_path, signing_key=None)
    made = public_text(made_key(tmp_path))
    assert public_text(made_key(tmp_path)) == made
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_text(signing_key(settings)) == made


def test_the_key_can_be_a_path_or_base64_text(tmp_path):
    from base64 import b64encode

    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    for given in (str(path), b64encode(pem).decode()):
        assert public_text(signing_key(Settings(signing_key=given))) == public_text(KEY)


@pytest.mark.parametrize("given", ["/no/such/file", "bm8ga2V5"])
def test_a_key_that_is_none_is_told(given, tmp_path):
    with pytest.raises(NoSigningKey, match="MELO_SIGNING_KEY"):
        signing_key(Settings(signing_key=given, home=tmp_path))


def test_a_server_without_a_key_does_not_make_one_that_would_be_lost_or_that_leaves_events_unsigned(tmp_path):
    for home in (tmp_path / "none", tmp_path):
        with pytest.raises(NoSigningKey, match="openssl genpkey"):
            signing_key(Settings(home=home, signing_key=None))


def test_a_public_key_is_read_as_base64_or_pem():
    from cryptography.hazmat.primitives.serialization import PublicFormat

    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert public_text(public_key(pem)) == public_text(public_key(public_text(KEY) + "\n")) == public_text(KEY)
    with pytest.raises(InvalidRequest):
        public_key("none")


def test_over_http_a_head_is_signed_compared_exported_and_the_verification_tells_what_it_is_at(
    used, api, tmp_path, monkeypatch
):
    made_key(tmp_path)
    monkeypatch.setattr(api.app.state.settings, "home", tmp_path)
    key = api.get("/v1/audit/public-key").json()["public_key"]
    head = api.post("/v1/audit/checkpoint").json()
    body = {"checkpoint": head, "public_key": key}
    assert api.post("/v1/audit/checkpoint/compare", json=body).json() == {"ok": True, "findings": []}
    forged = {**body, "checkpoint": {**head, "hash": "0" * 64}}
    assert not api.post("/v1/audit/checkpoint/compare", json=forged).json()["ok"]

    exported = api.get("/v1/audit/export", params={"since": 2})
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert export.verify(exported.content.splitlines(keepends=True)).head_hash == head["hash"]

    *steps, result = [json.loads(line) for line in api.get("/v1/audit/verify/stream").text.splitlines()]
    assert {step["verifying"] for step in steps} == set(result["verified"])
    assert (result["ok"], result["head_hash"]) == (True, head["hash"])


def test_over_http_a_server_without_a_key_says_how_to_make_one(used, api, tmp_path, monkeypatch):
    monkeypatch.setattr(api.app.state.settings, "home", tmp_path / "none")
    answer = api.post("/v1/audit/checkpoint")
    assert (answer.status_code, answer.json()["code"]) == (503, "no-signing-key")
    assert "openssl genpkey" in answer.json()["remedy"]
