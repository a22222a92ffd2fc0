"""The record's response times and sizes, through the services as the API calls them."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record.synthetic import NAME, SUBMITTER, corrections, make_collection
from registry.audit.actor import Actor
from registry.batches import submitting
from registry.collections import service as collections
from registry.tables.collections import Collection
from registry.tables.edits import Edit
from registry.versions import aliases, comparing, reading, service

ADMIN = Actor("bench")
PAGE = 100
SUBMITTED = 10_000
_COPIED = (
    "collection_id", "position", "prompt", "target", "alternatives", "rephrases", "unchanged", "kind", "author",
    "reason", "source", "replaces", "prompt_key", "digest", "record_digest",
)  # fmt: skip

# Tables that grow with each version whatever it changes, and those that grow with each edit.
OF_VERSIONS = ("versions", "audit_events", "batches", "approvals", "jobs")
OF_EDITS = ("edits", "blocks", "block_edits", "points", "clusters", "activations")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one transaction."""

    median: float
    p95: float
    times: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        ordered = sorted(seconds)
        last = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        return cls(round(statistics.median(ordered) * 1000, 2), round(last * 1000, 2), len(ordered))


def operations(
    sessions: sessionmaker[Session], versions: int, times: int, step: Callable[[str], None]
) -> dict[str, Timing]:
    """Time each operation so many times, on random versions, each in its own transaction.

    step: called with the name of the next operation.
    """
    chance = random.Random(0)

    def any_version() -> int:
        return chance.randint(1, versions)

    def neighbours(session: Session, collection: Collection) -> None:
        number = chance.randint(1, versions - 1)
        comparing.diff(session, collection, number, number + 1)

    def pairs(session: Session, collection: Collection) -> None:
        comparing.diff(session, collection, any_version(), any_version())

    def version_at(session: Session, collection: Collection) -> None:
        moment = began + (ended - began) * chance.random()
        assert reading.version_at(session, collection, moment) is not None

    def show(session: Session, collection: Collection) -> None:
        reading.show(session, collection, any_version())

    def alias(session: Session, collection: Collection) -> None:
        aliases.set_alias(session, collection, "production", any_version(), ADMIN, "bench")

    def retire(session: Session, collection: Collection) -> None:
        service.retire(session, collection, [acting.pop()], ADMIN, "bench")

    def roll_back(session: Session, collection: Collection) -> None:
        service.rollback(session, collection, any_version(), ADMIN, "bench")

    def first_page(session: Session, collection: Collection) -> None:
        reading.page(session, collection, before=None, limit=PAGE)

    def last_page(session: Session, collection: Collection) -> None:
        reading.page(session, collection, before=PAGE + 1, limit=PAGE)

    with sessions() as session:
        collection = collections.get(session, NAME)
        began, ended = (
            version.created_at + timedelta(seconds=1)
            for version in (
                service.get(session, collection, 1),
                service.get(session, collection, versions),
            )
        )
        acting = list(session.scalars(text(_ACTING), {"id": collection.id, "count": times + 1}))
    chosen: dict[str, Callable[[Session, Collection], None]] = {
        "diff": neighbours, "diff_random": pairs, "version_at": version_at, "show": show, "alias": alias,
        "retire": retire, "rollback": roll_back, "versions_first_page": first_page, "versions_last_page": last_page,
    }  # fmt: skip
    timings = {}
    for name, act in chosen.items():
        step(name)
        _timed(sessions, act)  # the first one also fills caches
        timings[name] = Timing.of([_timed(sessions, act) for _ in range(times)])
    return timings


_ACTING = """
SELECT edit_id FROM activations WHERE collection_id = :id AND upper_inf(valid) ORDER BY edit_id DESC LIMIT :count
"""


def _timed(sessions: sessionmaker[Session], act: Callable[[Session, Collection], None]) -> float:
    start = time.perf_counter()
    with sessions.begin() as session:
        act(session, collections.get(session, NAME))
    return time.perf_counter() - start


def sizes(session: Session) -> dict[str, int]:
    """Return the bytes of each table with its indexes."""
    return {
        table: session.execute(text("SELECT pg_total_relation_size(:table)"), {"table": table}).scalar_one()
        for table in (*OF_VERSIONS, *OF_EDITS)
    }


@dataclass(frozen=True)
class Submission:
    """Seconds for 10,000 edits, medians of three: through the service, and for a bare COPY of the same rows."""

    edits: int
    service_seconds: float
    copy_seconds: float

    @property
    def ratio(self) -> float:
        return round(self.service_seconds / self.copy_seconds, 2)


def submission(sessions: sessionmaker[Session], model: str, count: int = SUBMITTED) -> Submission:
    """Time both in turns, into the same table. COPY writes the rows that the service wrote, prepared as text."""
    with sessions.begin() as session:
        make_collection(session, model, "submitted")
        make_collection(session, model, "copied")
    through, bare = [], []
    chance = random.Random(0)
    for turn in range(4):
        records: list[Any] = corrections(chance, count, f"s{turn}")
        start = time.perf_counter()
        with sessions.begin() as session:
            batch = submitting.submit(session, collections.get(session, "submitted"), records, SUBMITTER).batch
        through.append(time.perf_counter() - start)
        assert batch is not None
        bare.append(_bare_copy(sessions, batch.id))
    return Submission(count, round(statistics.median(through[1:]), 4), round(statistics.median(bare[1:]), 4))


def _bare_copy(sessions: sessionmaker[Session], like: int) -> float:
    columns = ", ".join(_COPIED)
    with sessions.begin() as session:
        driver = session.connection().connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        copied = collections.get(session, "copied")
        others = columns.removeprefix("collection_id, ")
        batch = session.execute(text(_EMPTY_BATCH), {"like": like, "collection": copied.id}).scalar_one()
        rows = (
            f"COPY (SELECT {batch}, {copied.id}, {others} FROM {Edit.__tablename__} WHERE batch_id = {like} "
            "ORDER BY position) TO STDOUT"
        )
        with driver.cursor() as cursor, cursor.copy(rows) as out:
            ready = b"".join(bytes(part) for part in out)
    start = time.perf_counter()
    with sessions.begin() as session:
        driver = session.connection().connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        into = f"COPY {Edit.__tablename__} (batch_id, {columns}) FROM STDIN"
        with driver.cursor() as cursor, cursor.copy(into) as copy:
            copy.write(ready)
    return time.perf_counter() - start


_EMPTY_BATCH = """
INSERT INTO batches (collection_id, state, submitted_by, edit_count, edits_digest)
SELECT :collection, 'submitted', submitted_by, edit_count, edits_digest FROM batches WHERE id = :like RETURNING id
"""


def gaps(session: Session) -> int:
    """Return how many numbers are missing among the collections' versions."""
    return int(session.execute(text(_GAPS)).scalar_one())


_GAPS = """
SELECT coalesce(sum(newest - there), 0) FROM (
    SELECT max(number) AS newest, count(DISTINCT number) AS there FROM versions GROUP BY collection_id
) AS numbered
"""


def events_missing(session: Session) -> int:
    """Return how many changes of state lack their event: collections, batches, approvals, versions and alias moves."""
    return int(session.execute(text(_EVENTS_MISSING)).scalar_one())


_EVENTS_MISSING = """
WITH changes (subject, action, needed) AS (
    SELECT 'collection/' || name, 'registry:collection:create', 1 FROM collections
    UNION ALL SELECT 'batch/' || id, 'collection:batch:submit', 1 FROM batches
    UNION ALL SELECT 'batch/' || batch_id, 'collection:batch:approve', count(*) FROM approvals GROUP BY batch_id
    UNION ALL SELECT 'batch/' || id, 'collection:batch:reject', 1 FROM batches WHERE state = 'rejected'
    UNION ALL SELECT 'version/' || name || '/' || number, 'collection:version:' || kind, 1
        FROM versions JOIN collections ON collections.id = versions.collection_id
    UNION ALL SELECT 'alias/' || collections.name || '/' || aliases.name, 'collection:alias:set', count(*)
        FROM aliases JOIN collections ON collections.id = aliases.collection_id GROUP BY 1
), told AS (SELECT subject, action, count(*) AS there FROM audit_events GROUP BY subject, action)
SELECT coalesce(sum(needed - least(needed, coalesce(there, 0))), 0)
FROM changes LEFT JOIN told USING (subject, action)
"""
