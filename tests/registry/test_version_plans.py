"""What a request reads of a large collection: never a big table from one end to the other."""

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, text

from registry.base.database import make_engine, make_sessions
from registry.batches import service as edits
from registry.collections import service as collections
from registry.jobs import service as queue
from registry.versions import aliases, comparing, reading, repository, service
from registry.versions.edit_log import edit_log
from tests.conftest import copy_of
from tests.registry.large import fill
from tests.registry.workflow import BEN, Workflow, trained

VERSIONS = 3_000
BIG = {"clusters", "activations", "points", "blocks", "block_edits", "edits", "versions", "audit_events"}


@pytest.fixture(scope="module")
def large_url(postgres, template, model_folder):
    made = copy_of(postgres, template)
    url = next(made)
    engine = make_engine(url)
    Workflow.with_collection(make_sessions(engine), model_folder).correct(("first?", "x"))
    fill(engine, versions=VERSIONS, each=7)
    engine.dispose()
    yield url
    next(made, None)


@pytest.fixture
def large(large_url):
    engine = make_engine(large_url)
    yield Workflow(make_sessions(engine))
    engine.dispose()


@contextmanager
def statements_of(engine):
    """Every statement that is sent meanwhile, with its parameters."""
    sent = []

    def remember(connection, cursor, statement, parameters, context, executemany):
        sent.append((statement, parameters[0] if isinstance(parameters, list) else parameters))

    event.listen(engine, "before_cursor_execute", remember)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", remember)


def scanned(node):
    """The big tables that a plan reads from one end to the other, or through every entry of an index."""
    kind = node["Node Type"]
    whole = kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and not node.get("Index Cond"))
    if whole and node.get("Relation Name") in BIG and not node.get("stops_early"):  # a Limit takes its first rows
        yield f"{kind} on {node['Relation Name']}"
    for part in node.get("Plans", ()):
        yield from scanned(part | {"stops_early": kind == "Limit"})


def explained(session, sent):
    """Each statement with the big tables that its plan reads whole."""
    plans = []
    for statement, parameters in sent:
        if statement.split()[0].upper() not in ("SELECT", "INSERT", "UPDATE", "WITH"):
            continue
        plan = session.connection().exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
        plan = json.loads(plan) if isinstance(plan, str) else plan
        plans.append((statement, list(scanned(plan[0]["Plan"]))))
    return plans


def retired_one(session, collection):
    newest = repository.latest(session, collection.id).number
    service.retire(session, collection, [newest // 2 * 7], BEN, "wrong")


def after_a_rollback(session, collection):
    service.rollback(session, collection, VERSIONS - 5, BEN, "worked better")
    service.retire(session, collection, [5_000], BEN, "wrong")


def reverted(session, collection):
    service.revert(session, collection, VERSIONS - 3, BEN, "wrong")


def rolled_back(session, collection):
    service.rollback(session, collection, VERSIONS // 2, BEN, "worked better")


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REQUESTS = {
    "the first page of versions": lambda s, c: reading.page(s, c, before=None, limit=100),
    "a later page of versions": lambda s, c: reading.page(s, c, before=150, limit=100),
    "show": lambda s, c: reading.show(s, c, VERSIONS - 9),
    "diff of neighbours": lambda s, c: comparing.diff(s, c, 1_500, 1_501),
    "diff backwards": lambda s, c: comparing.diff(s, c, 1_520, 1_500),
    "version at": lambda s, c: reading.version_at(s, c, NOON),
    "what an alias names": lambda s, c: reading.resolve(s, "facts@latest"),
    "an alias moved": lambda s, c: aliases.set_alias(s, c, "production", 2_000, BEN),
    "the log of an edit": lambda s, c: edit_log(s, 9_002),
    "a page of edits": lambda s, c: edits.edits_of(s, c, active=True, after=9_000, limit=100),
    "the collection itself": lambda s, c: collections.view(s, c),
    "retire": retired_one,
    "retire many": lambda s, c: service.retire(s, c, range(7_005, 14_000, 100), BEN, "wrong"),
    "rollback": rolled_back,
    "revert": reverted,
    "retire after a rollback": after_a_rollback,
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_no_request_reads_a_big_table_from_end_to_end(large, request_name):
    engine = large.sessions.kw["bind"]
    with large.sessions() as session:
        collection = collections.get(session, "facts")
        with statements_of(engine) as sent:
            REQUESTS[request_name](session, collection)
        plans = explained(session, sent)
        session.rollback()
    assert len(plans) >= 1
    assert [(statement, found) for statement, found in plans if found] == []


def test_applying_a_batch_reads_what_it_changes(large):
    batch = large.submit({"prompt": "new?", "target": "y"}, {"prompt": "first?", "target": "z"}, on_conflict="replace")
    claim = large.claim(large.approve(batch.batch.id))
    engine = large.sessions.kw["bind"]
    with large.sessions() as session:
        content = repository.version_content(session, 1, 1, block_bytes=False)
        newest = repository.latest(session, 1).number
        result = replace(trained(claim, content), base_version=newest)
        with statements_of(engine) as sent:
            service.apply(session, queue.hold(session, claim), result, timings={}, loss_curve=[])
        plans = explained(session, sent)
        session.rollback()
    assert [(statement, found) for statement, found in plans if found] == []


def test_pages_of_versions_cost_the_same_wherever_they_lie(large):
    with large.sessions() as session:
        costs = [
            session.execute(
                text(
                    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM versions WHERE collection_id = 1 "
                    f"AND number < {before} ORDER BY number DESC LIMIT 50"
                )
            ).scalar_one()[0]["Plan"]["Shared Hit Blocks"]
            for before in (VERSIONS, 1_500, 60)
        ]
    assert max(costs) <= 2 * min(costs) + 20
