"""Forgeries of the record by somebody with all rights on the server, each of which verification must catch and name.

Each forgery is made in a transaction, with triggers and constraints disabled, and rolled back.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record.databases import Databases
from benchmarks.record.generate import generate
from benchmarks.record.measure import ADMIN
from benchmarks.record.synthetic import NAME
from registry.audit import checkpoint as checkpoints
from registry.audit import repository as audit
from registry.audit.chain import GENESIS, hashed_fields
from registry.audit.schemas import Checkpoint
from registry.base.database import make_engine, make_sessions
from registry.base.digests import event_hash, sha256_hex
from registry.collections import service as collections
from registry.verification import service as verification
from registry.versions import aliases

VERSIONS, EDITS = 20, 80


@dataclass(frozen=True)
class Forgery:
    """A forgery. names: part of what the verification must say."""

    what: str
    names: str
    statements: tuple[str, ...] = ()
    act: Callable[[Session], None] | None = None


def sign_anew(session: Session) -> None:
    """Change the third event, and rehash it and every event after it."""
    previous = GENESIS
    for event in list(audit.stream(session)):
        event.actor = "eve" if event.seq == 3 else event.actor
        event.previous_hash = previous
        event.hash = previous = event_hash(hashed_fields(event))
        session.execute(
            text("UPDATE audit_events SET actor = :actor, previous_hash = :before, hash = :hash WHERE seq = :seq"),
            {"actor": event.actor, "before": event.previous_hash, "hash": event.hash, "seq": event.seq},
        )


def sign_one_anew(session: Session) -> None:
    event = next(each for each in audit.stream(session) if each.seq == 3)
    event.actor = "eve"
    forged = event_hash(hashed_fields(event))
    session.execute(text("UPDATE audit_events SET actor = 'eve', hash = :hash WHERE seq = 3"), {"hash": forged})


_OTHER = sha256_hex(b"other")
_TAIL = "(SELECT max(seq) - 1 FROM audit_events)"

FORGERIES = (
    Forgery("an event changed", "event 3: its content", ("UPDATE audit_events SET actor = 'eve' WHERE seq = 3",)),
    Forgery("an event's details changed", "event 3: its content",
            ("UPDATE audit_events SET details = details || '{\"job\": 77}' WHERE seq = 3",)),
    Forgery("an event removed", "event 3 is missing", ("DELETE FROM audit_events WHERE seq = 3",)),
    Forgery("two events swapped", "event 2: it does not follow",
            ("UPDATE audit_events SET seq = -2 WHERE seq = 2", "UPDATE audit_events SET seq = 2 WHERE seq = 3",
             "UPDATE audit_events SET seq = 3 WHERE seq = -2")),
    Forgery("an event signed again", "event 4: it does not follow", act=sign_one_anew),
    Forgery("all events signed again", "were written anew", act=sign_anew),
    Forgery("the last events cut off", "production at version", (f"DELETE FROM audit_events WHERE seq > {_TAIL}",)),
    Forgery("the last events cut off, and what they tell of", "the end was cut off",
            (f"DELETE FROM audit_events WHERE seq > {_TAIL}",
             "DELETE FROM aliases WHERE replaced_at IS NULL",
             "UPDATE aliases SET replaced_at = NULL WHERE id = (SELECT max(id) FROM aliases)")),
    Forgery("a block's bytes changed", "block 1: stored bytes",
            ("UPDATE blocks SET data = set_byte(data, 7, get_byte(data, 7) # 1) WHERE id = 1",)),
    Forgery("a block replaced with its SHA-256", "cluster 1 from version 1 on",
            (f"UPDATE blocks SET data = 'other', sha256 = '{_OTHER}' WHERE id = 1",)),
    Forgery("two blocks swapped", "cluster 1 from version 1 on",
            ("UPDATE points SET block_id = 3 - block_id WHERE id IN (1, 2)",)),
    Forgery("a key changed", "cluster 1 from version 1 on",
            ("UPDATE points SET key = '[1,2,3,4,5,6,7,8]' WHERE id = 1",)),
    Forgery("a point removed", "its points [1] are missing", ("DELETE FROM points WHERE id = 1",)),
    Forgery("a larger radius", "cluster 2 from version 1 on", ("UPDATE clusters SET radius = 2 WHERE cluster_no = 2",)),
    Forgery("a cluster removed", "version 1 of bench", ("DELETE FROM clusters WHERE cluster_no = 2",)),
    Forgery("an ended cluster opened again", "version 10 of bench",
            ("UPDATE clusters SET valid = int4range(lower(valid), NULL) WHERE upper(valid) = 10",)),
    Forgery("an edit's target changed", "edit 1: its content", ("UPDATE edits SET target = 'eve' WHERE id = 1",)),
    Forgery("an edit changed with its digest", "batch 1: its edits",
            (f"UPDATE edits SET target = 'eve', digest = '{_OTHER}' WHERE id = 1",)),
    Forgery("an edit removed", "batch 1: its edits", ("DELETE FROM edits WHERE id = 1",)),
    Forgery("an edit slipped into a version", "version 1 of bench",
            ("INSERT INTO activations (collection_id, edit_id, prompt_key, valid) "
             "SELECT collection_id, edit_id, prompt_key, int4range(1, 2) FROM activations WHERE lower(valid) = 2 "
             "LIMIT 1",)),
    Forgery("a retired edit put to work again", "version 10 of bench",
            ("UPDATE activations SET valid = int4range(lower(valid), NULL) WHERE upper(valid) = 10",)),
    Forgery("another submitter", "batch 1: ", ("UPDATE batches SET submitted_by = 'eve' WHERE id = 1",)),
    Forgery("another decider", "batch 1: it is applied by eve",
            ("UPDATE batches SET decided_by = 'eve' WHERE id = 1",)),
    Forgery("a batch that nobody submitted", "batch 77: the event of its submission is missing",
            ("INSERT INTO batches (id, collection_id, state, submitted_by, decided_by, decided_at, approvals_needed, "
             "edit_count, edits_digest) OVERRIDING SYSTEM VALUE SELECT 77, collection_id, 'applied', 'eve', 'eve', "
             "now(), 1, 1, edits_digest FROM batches WHERE id = 1",)),
    Forgery("an approval added", "approval of batch 1 by eve: its event is missing",
            ("INSERT INTO approvals (batch_id, actor, role) VALUES (1, 'eve', 'admin')",)),
    Forgery("an approval removed", "batch 1: the approval by ben", ("DELETE FROM approvals WHERE batch_id = 1",)),
    Forgery("a version's digest changed", "version 2 of bench",
            (f"UPDATE versions SET content_digest = '{_OTHER}' WHERE number = 2",)),
    Forgery("another author of a version", "version 2 of bench",
            ("UPDATE versions SET author = 'eve' WHERE number = 2",)),
    Forgery("a version backdated", "version 2 of bench",
            ("UPDATE versions SET created_at = created_at - interval '1 minute' WHERE number = 2",)),
    Forgery("a version removed", "version before it is missing", ("DELETE FROM versions WHERE number = 2",)),
    Forgery("a rollback to another version", "version 16 of bench",
            ("UPDATE versions SET restores = 3, content_version = 3 WHERE number = 16",)),
    Forgery("an alias moved", "production at version",
            ("UPDATE aliases SET number = 2 WHERE replaced_at IS NULL",)),
    Forgery("an alias backdated", "production at version",
            ("UPDATE aliases SET set_at = set_at - interval '1 day' WHERE replaced_at IS NULL",)),
    Forgery("an alias's history removed", "production at version",
            ("DELETE FROM aliases WHERE replaced_at IS NOT NULL",)),
    Forgery("another base model", "collection bench", (f"UPDATE collections SET model_digest = '{_OTHER}'",)),
    Forgery("a laxer policy", "policy of bench", ("UPDATE collections SET self_approval = true",)),
)  # fmt: skip


def try_all(databases: Databases, model: str, advance: Callable[[str], None]) -> dict[str, bool]:
    """Try each forgery; return whether verification against a checkpoint named it. advance: called with each."""
    engine = make_engine(databases.make("forged"))
    sessions = make_sessions(engine)
    head = _prepare(sessions, model)
    caught = {}
    for forgery in FORGERIES:
        advance(forgery.what)
        caught[forgery.what] = any(forgery.names in finding for finding in _forged(sessions, forgery, head))
    engine.dispose()
    return caught


def _prepare(sessions: sessionmaker[Session], model: str) -> Checkpoint:
    generate(sessions, model, VERSIONS, EDITS, lambda edits: None)
    for number in (7, 8, 9):
        with sessions.begin() as session:
            aliases.set_alias(session, collections.get(session, NAME), "production", number, ADMIN, "released")
    with sessions.begin() as session:
        return checkpoints.make(session, Ed25519PrivateKey.generate())


def _forged(sessions: sessionmaker[Session], forgery: Forgery, head: Checkpoint) -> list[str]:
    """Return the findings on a forgery, seen from its own transaction; it is never committed."""
    with sessions() as session:
        # Set as verification sets it, whose own request would come too late here.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("ALTER TABLE blocks DROP CONSTRAINT blocks_sha256_check"))
        for statement in forgery.statements:
            session.execute(text(statement))
        if forgery.act is not None:
            forgery.act(session)
        session.expunge_all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            found = [*verification.verify(session).findings, *checkpoints.compare(session, head)]
    return [f"{each.subject}: {each.detail}" for each in found]
