"""What verification notices of a change by the database's owner, column by column.

docs/audit.md lists what it does not notice, each with a reason; the list is neither too long nor too short.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, text
from sqlalchemy.orm import Session

from registry.access import service as access
from registry.access.caller import EVERYWHERE, Caller
from registry.access.schemas import NewKey
from registry.audit import checkpoint as checkpoints
from registry.base.vocabulary import Preflight, Role
from registry.batches import service as batches
from registry.collections import service as collections
from registry.erasure import service as erasure
from registry.feedback import service as feedback
from registry.feedback.schemas import NewFeedback
from registry.jobs import service as queue
from registry.jobs.schemas import EditPreflight, Progress
from registry.tables.idempotency import KeptAnswer
from registry.tables.schema import metadata
from registry.tables.webhooks import WebhookDelivery
from registry.verification import service as verification
from registry.verification.guards import verify_guards
from registry.versions import aliases, candidates, protections
from registry.webhooks import service as webhooks
from registry.webhooks.schemas import NewWebhook
from tests.conftest import copy_of
from tests.registry.account import use
from tests.registry.answered import answered, keep, log
from tests.registry.test_signing import KEY, SIGNING
from tests.registry.workflow import ADA, BEN, template_of, trained

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"
_ROW = re.compile(r"^\| `([a-z_]+)`: (.+?) \| (.+?) \|$", re.MULTILINE)


def fill(workflow):
    """At least one row in every table: some decided, ended or erased, some not."""
    use(workflow)
    log(workflow, preflight=Preflight.TRAIN)
    workflow.retire(workflow.active()["What is the capital of France?"])
    with workflow.sessions.begin() as session:
        for name in ("production", "staging"):
            protections.protect(session, collection_of(session), name, Role.ADMIN, BEN, "customers use it")
        aliases.set_alias(session, collection_of(session), "production", 5, BEN, "without France")
        erasure.erase(session, [1], BEN, "request 1", dry_run=False)
        for name in ("ci", "old"):
            access.create(session, NewKey(name=name, roles=[{"role": "viewer"}]), ADA)
        access.revoke(session, 2, BEN, "lost")
        for path in ("a", "b"):
            new = NewWebhook(url=f"https://example.org/{path}", description="clears a cache")
            webhooks.create(session, new, ADA, allow_private=False)
        webhooks.remove(session, 2, ADA, "no longer used")
    keep(workflow, answered(version=2, edit_id=2), answered("chatcmpl-2", edit_id=2))
    ada = Caller(actor="ada", identity="operator", roles=EVERYWHERE)
    with workflow.sessions.begin() as session:
        given = NewFeedback(response_id="chatcmpl-1", rating="down", comment="no", correction="Granada", prompt="And?")
        feedback.give(session, given, ada, "request")
        session.add(KeptAnswer(scope="x", key="y", method="POST", path="/", request_digest="0" * 64, status=201,
                               headers={}, body=b"{}"))  # fmt: skip
        session.add(WebhookDelivery(webhook_id=1, event_seq=3, payload={"type": "version"}))
        queue.worker_seen(session, "w1", "cpu")
    preflight(workflow)


def collection_of(session):
    return collections.get(session, "facts")


def preflight(workflow):
    """A preflight that trained, one that waits, and one that a worker is at."""
    ids = [workflow.submit({"prompt": f"Who leads {name}?", "target": "Urs"}).batch.id for name in ("A", "B", "C")]
    with workflow.sessions() as session:
        jobs = [batches.view(session, batches.get(session, each)).preflight.id for each in ids]
    claim = workflow.claim(jobs[0])
    report = [EditPreflight(edit_id=claim.edits[0].id, answer_now="Lyon")]
    with workflow.sessions.begin() as session:
        candidates.finish_preflight(
            session, claim, report, trained(claim, workflow.content(0)), progress=Progress(stage="train"),
            timings={"train": 0.5}, loss_curve=[[0.1, 2.0]], peak_memory_bytes=1,
        )  # fmt: skip
    workflow.claim(jobs[1])


@pytest.fixture(scope="module")
def filled(postgres, template, model_folder):
    yield from template_of(postgres, template, model_folder, fill, signing=SIGNING)


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def session(engine):
    """A session of the database's owner, in one transaction that is never committed, with no constraint in the way."""
    with Session(engine, info={"signing": SIGNING}) as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(text("SET LOCAL session_replication_role = replica"))
        constraints = "SELECT conrelid::regclass, conname FROM pg_constraint WHERE contype IN ('f', 'c', 'u', 'x')"
        for table, name in session.execute(text(constraints + " AND connamespace = 'public'::regnamespace")):
            session.execute(text(f'ALTER TABLE {table} DROP CONSTRAINT IF EXISTS "{name}" CASCADE'))
        unique = "SELECT indexrelid::regclass FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE indisunique"
        for name in session.scalars(text(unique + " AND NOT indisprimary AND relnamespace = 'public'::regnamespace")):
            session.execute(text(f"DROP INDEX {name}"))
        yield session


def listed() -> dict[str, str]:
    """What docs/audit.md says is not noticed, with the reason: `table.column`, `table (a row added)` and so on."""
    section = DOCS.read_text("utf-8").partition("## What verification does not notice")[2].partition("\n## ")[0]
    found = {}
    for table, names, reason in _ROW.findall(section):
        for name in names.split(", "):
            found[f"{table}.{name.strip('`')}" if name.startswith("`") else f"{table} ({name})"] = reason
    return found


def other(column: Column) -> str:
    """An SQL expression for another value than the column has."""
    name, kind = f'"{column.name}"', str(column.type)
    if "[]" in kind or kind == "ARRAY":
        added = "1" if "INT" in str(column.type.item_type) else "'x'"
        return f"array_append({name}, {added})"
    known = {
        "TEXT": f"{name} || 'x'",
        "VARCHAR": f"{name} || 'x'",
        "BIGINT": f"{name} + 1000",
        "INTEGER": f"{name} + 1000",
        "DOUBLE": f"{name} + 0.125",
        "DOUBLE PRECISION": f"{name} + 0.125",
        "BOOLEAN": f"NOT {name}",
        "DATETIME": f"{name} - interval '1 day'",
        "BLOB": f"{name} || 'x'::bytea",
        "UUID": "gen_random_uuid()",
        "CHAR(32)": "gen_random_uuid()",
        "JSONB": f"CASE jsonb_typeof({name}) WHEN 'array' THEN {name} || '[1]' ELSE {name} || '{{\"x\": 1}}' END",
        "VECTOR": f"{name} + {name}",
        "INT4RANGE": f"int4range(lower({name}) - 1, upper({name}) - 1)",
    }
    return known[kind]


def some(column: Column) -> str:
    """An SQL expression for a value where the column has none."""
    kind = str(column.type)
    if "[]" in kind or kind == "ARRAY":
        return "'{1}'"
    known = {"TEXT": "'x'", "VARCHAR": "'x'", "DATETIME": "now()", "JSONB": "'[1]'", "VECTOR": "'[1]'",
             "UUID": "gen_random_uuid()", "CHAR(32)": "gen_random_uuid()", "BLOB": "'x'"}  # fmt: skip
    return known.get(kind, "1")


def changes() -> Iterator[tuple[str, str]]:
    """Every way to change one column of one row, each with its name; and a row added or removed."""
    for table in metadata.sorted_tables:
        yield f"{table.name} (a row removed)", f"DELETE FROM {table.name} WHERE ctid = {one(table.name)}"
        copied = [each for each in table.columns if not each.primary_key]
        keys = [each for each in table.columns if each.primary_key]
        names = ", ".join(f'"{each.name}"' for each in (*keys, *copied))
        values = ", ".join([*(other(each) for each in keys), *(f'"{each.name}"' for each in copied)])
        yield (
            f"{table.name} (a row added)",
            f"INSERT INTO {table.name} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {table.name} LIMIT 1",
        )
        for column in table.columns:
            name = f'"{column.name}"'
            value = (f"{name} IS NOT NULL", other(column))
            ways = [value, (f"{name} IS NOT NULL", "NULL"), (f"{name} IS NULL", some(column))]
            for where, new in ways if column.nullable else [value]:
                yield (
                    f"{table.name}.{column.name}",
                    f"UPDATE {table.name} SET {name} = {new} WHERE ctid = {one(table.name, where)}",
                )


def one(table: str, where: str = "true") -> str:
    """The newest row; one whose content was erased only where there is no other."""
    erased = "(erased_at IS NOT NULL), " if "erased_at" in metadata.tables[table].columns else ""
    return f"(SELECT ctid FROM {table} WHERE {where} ORDER BY {erased}ctid DESC LIMIT 1)"


def noticed(session: Session, head, *statements: str) -> bool:
    """Whether changes made together are noticed."""
    with session.begin_nested() as step:
        for statement in statements:
            for table in re.findall(r'^UPDATE (\w+) SET "id"', statement):
                session.execute(text(f'ALTER TABLE {table} ALTER COLUMN "id" DROP IDENTITY IF EXISTS'))
            session.connection().exec_driver_sql(statement.replace("%", "%%"))
        session.expunge_all()
        found = any(wrong for _, wrong in findings(session)) or any(checkpoints.compare(session, head))
        step.rollback()
        return found


def does_something(session: Session, statement: str) -> bool:
    with session.begin_nested() as step:
        for table in re.findall(r'^UPDATE (\w+) SET "id"', statement):
            session.execute(text(f'ALTER TABLE {table} ALTER COLUMN "id" DROP IDENTITY IF EXISTS'))
        count = session.connection().exec_driver_sql(statement.replace("%", "%%")).rowcount
        step.rollback()
        return count > 0


def findings(session):
    """What is wrong with the rows: the schema itself has lost its constraints here."""
    for name, verify in verification.VERIFICATIONS.items():
        if verify is verify_guards:
            continue
        try:
            with session.begin_nested():
                yield from ((subject, wrong) for subject, wrong in verify(session) if wrong)
        except Exception as error:
            yield name, [str(error)]


def test_every_table_has_a_row(session):
    empty = [each for each in metadata.tables if not session.scalar(text(f"SELECT count(*) FROM {each}"))]
    assert empty == []
    assert list(findings(session)) == []


@pytest.mark.long
def test_what_verification_does_not_notice_is_listed_with_a_reason(session):
    head, known = checkpoints.make(session, KEY), listed()
    ways = [(name, statement) for name, statement in changes() if does_something(session, statement)]
    missed = {name for name, statement in ways if name not in known and not noticed(session, head, statement)}
    assert missed == set(), "not noticed, and not listed: " + ", ".join(sorted(missed))

    for table in metadata.sorted_tables:
        listed_ways = [way for way in ways if way[0] in known and way[0].startswith(f"{table.name}.")]
        if noticed(session, head, *(statement for _, statement in listed_ways)):  # some of them, at least
            for name, _ in listed_ways:
                mine = [statement for each, statement in listed_ways if each == name]
                assert not all(noticed(session, head, each) for each in mine), f"{name} is listed, and noticed"
    for name, statement in ways:
        if name in known and "." not in name:
            assert not noticed(session, head, statement), f"{name} is listed, and noticed"
    assert known.keys() <= {name for name, _ in ways}
    assert all(known.values())


GUARDS = {
    "trigger only_erase_content on edits: it is switched off": "ALTER TABLE edits DISABLE TRIGGER only_erase_content",
    "trigger refuse_change on versions: it is gone": "DROP TRIGGER refuse_change ON versions",
    "function melo_refuse_change: it was written anew": "CREATE OR REPLACE FUNCTION melo_refuse_change() "
    "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "function melo_x: no migration makes it": "CREATE FUNCTION melo_x() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RETURN NEW; END'",
    "trigger x on batches: no migration makes it": "CREATE TRIGGER x BEFORE INSERT ON batches FOR EACH ROW "
    "EXECUTE FUNCTION melo_keep_submission()",
    "trigger keep_webhook on webhooks: it was written anew": "DROP TRIGGER keep_webhook ON webhooks; "
    "CREATE TRIGGER keep_webhook BEFORE UPDATE ON webhooks FOR EACH ROW WHEN (false) "
    "EXECUTE FUNCTION melo_keep_webhook()",
    "rule x on audit_events: no migration makes it": "CREATE RULE x AS ON DELETE TO audit_events DO INSTEAD NOTHING",
    "table approvals: its foreign keys are switched off": "ALTER TABLE approvals DISABLE TRIGGER ALL",
}


@pytest.mark.parametrize("expected", GUARDS)
def test_a_guard_that_is_gone_switched_off_or_rewritten_is_named(used, engine, expected):
    with engine.begin() as connection:
        connection.exec_driver_sql(GUARDS[expected])
    assert expected in [f"{each.subject}: {each.detail}" for each in used.verify().findings]
