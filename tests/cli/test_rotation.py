"""`melo audit rotate-key`, on a database and in a folder of its own."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from registry.audit import rotation
from registry.audit import service as audit
from registry.audit.signing import made_key, public_text, stored_key
from registry.audit.trust import signing_of
from registry.base.database import make_sessions
from registry.base.settings import Settings
from tests.cli.program import Melo
from tests.registry.workflow import BEN, Workflow

REASON = ("--reason", "once a year")


@pytest.fixture
def home(tmp_path):
    made_key(tmp_path)
    return tmp_path


@pytest.fixture
def record(home, engine, model_folder):
    """A registry whose processes have the key in the home."""
    return Workflow.with_collection(make_sessions(engine, signing=signing_of(Settings(home=home))), model_folder)


@pytest.fixture
def program(home, database_url):
    return Melo(home, {"MELO_DATABASE_URL": database_url})


def rotations(workflow):
    return [each for each in events(workflow) if each.action == "registry:signer:replace"]


def events(workflow):
    with workflow.sessions() as session:
        return audit.log(session, collection_id=None, subject=None, before=None, limit=100)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_dry_run_changes_nothing(program, record, home):
    before = contents(home)
    done = program("audit", "rotate-key", *REASON, "--dry-run")
    assert (done.returncode, contents(home), rotations(record)) == (0, before, [])
    assert "Event 2, if no other comes first, would be the last one of the key" in done.stdout


def test_the_key_in_the_home_is_replaced_and_the_record_goes_on(program, record, home, engine):
    old = public_text(stored_key(home))
    done = program("audit", "rotate-key", *REASON, "--json")
    assert done.returncode == 0, done.stderr
    new = public_text(stored_key(home))
    told = json.loads(done.stdout)
    assert told == {
        "old": old, "new": new, "seq": 2, "public_keys": [f"{old} 1-2", f"{new} 3-"], "dry_run": False,
    }  # fmt: skip
    (event,) = rotations(record)
    assert (event.actor, event.reason, event.details, event.signed_by) == (
        "ada", "once a year", {"from": old, "to": new}, old,
    )  # fmt: skip
    after = Workflow(make_sessions(engine, signing=signing_of(Settings(home=home))))
    after.submit({"prompt": "Who leads Atlantis?", "target": "Mara"})
    assert after.verify().ok
    assert program("audit", "rotate-key", *REASON).returncode == 0
    assert Workflow(make_sessions(engine, signing=signing_of(Settings(home=home)))).verify().ok


def test_an_interrupted_replacement_is_finished_by_the_next_call(program, record, home):
    """The event is written, and the files are not."""
    new = rotation.next_key(home, store=True)
    with record.sessions.begin() as session:
        rotation.replace(session, public_text(new), BEN, "once a year")
    done = program("audit", "rotate-key", *REASON)
    assert "Event 2 is the last one of the old key" in done.stdout
    assert public_text(stored_key(home)) == public_text(new)
    assert len(rotations(record)) == 1


def test_a_key_elsewhere_is_replaced_by_one_whose_public_key_is_given(program, record, home, tmp_path_factory):
    new = Ed25519PrivateKey.generate()
    path = tmp_path_factory.mktemp("keys") / "new.pub"
    path.write_bytes(new.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    refused = program("audit", "rotate-key", *REASON, "--to", path)
    assert refused.returncode == 1 and "--to does not apply" in refused.stderr
    program.environment["MELO_SIGNING_KEY"] = str(home / "signing-key.pem")
    missing = program("audit", "rotate-key", *REASON)
    assert missing.returncode == 1 and "The new key is missing" in missing.stderr
    before = contents(home)
    done = program("audit", "rotate-key", *REASON, "--to", path)
    assert done.returncode == 0 and "list the old one in MELO_PUBLIC_KEYS" in done.stdout
    assert contents(home) == before and rotations(record)[0].details["to"] == public_text(new)


def test_without_a_key_there_is_none_to_replace(tmp_path, database_url):
    done = Melo(tmp_path, {"MELO_DATABASE_URL": database_url})("audit", "rotate-key", *REASON)
    assert done.returncode == 1 and "signing-key.pem is not there" in done.stderr
    assert list(tmp_path.iterdir()) == []
