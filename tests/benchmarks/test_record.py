"""`melo bench registry` in small: its figures are there, and those that must be are right on any machine."""

import json
from collections.abc import Iterator

import psycopg
import pytest
from rich.console import Console
from sqlalchemy import text

from benchmarks.record import forgeries, measure
from benchmarks.record.databases import databases
from benchmarks.record.generate import generate
from benchmarks.record.run import Sizes, run_bench
from benchmarks.record.synthetic import write_model
from registry.base.database import make_engine, make_sessions
from registry.base.vocabulary import VersionKind
from registry.verification import service as verification
from registry.versions import repository

pytestmark = pytest.mark.long

VERSIONS, EDITS = 50, 2_000


@pytest.fixture(scope="module")
def figures(postgres: str) -> dict[str, object]:
    console = Console(quiet=True)
    sizes = Sizes(EDITS, VERSIONS, writers=10, seconds=3, submitted=3_000)
    return json.loads(json.dumps(run_bench(console, postgres, sizes).as_json()))


def names(postgres: str) -> set[str]:
    with psycopg.connect(postgres) as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def test_what_many_write_at_once_leaves_an_intact_record(figures):
    assert figures["writers"]["errors"] == []
    assert figures["writers"]["done"].keys() >= {"submit", "approve", "retire", "roll_back", "move_alias"}
    right = {"version_gaps": 0, "digest_mismatches": 0, "events_missing": 0, "chain_ok": True, "findings": []}
    assert {name: figures[name] for name in right} == right


def test_every_forgery_is_caught_and_named(figures):
    assert [what for what, caught in figures["forgeries"].items() if not caught] == []
    assert figures["forgeries_tried"] == figures["forgeries_caught"] == len(forgeries.FORGERIES) >= 30


def test_every_operation_is_timed_and_every_table_weighed(figures):
    assert figures["median_ms"].keys() == {"diff", "version_at", "show", "alias", "rollback"}
    assert all(0 < median < 1_000 for median in figures["median_ms"].values())
    assert figures["versions_page_ms"]["first"] > 0
    assert figures["bytes_per_version"] > 1_000
    assert figures["bytes_per_edit"] > 500


def test_submitting_takes_at_most_four_times_a_bare_copy(figures):
    assert figures["submit_vs_copy"] <= 4


def test_signing_is_measured_beside_the_same_change_without(figures):
    signing = figures["signing"]
    assert signing["times"] == 1_000 and signing["unsigned_ms"] > 0
    assert signing["ratio"] == round(signing["signed_ms"] / signing["unsigned_ms"], 3)


@pytest.fixture(scope="module")
def synthetic(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with databases(postgres) as made:
        engine = make_engine(made.make("test"))
        sessions = make_sessions(engine)
        generate(sessions, write_model(tmp_path_factory.mktemp("model")), VERSIONS, 300, lambda edits: None)
        yield sessions
        engine.dispose()


def test_the_synthetic_history_has_all_kinds_and_nothing_wrong_with_it(synthetic):
    with synthetic() as session:
        versions = repository.page(session, 1, before=None, limit=1_000)
        assert len(versions) == VERSIONS
        assert {version.kind for version in versions} == {VersionKind.APPLY, VersionKind.RETIRE, VersionKind.ROLLBACK}
    with synthetic.begin() as session:
        found = verification.verify(session)
    assert (found.findings, found.verified["edits"], found.verified["versions"]) == ([], 300, VERSIONS)


def test_a_change_without_its_event_and_a_missing_number_are_counted(synthetic):
    with synthetic() as session:
        assert (measure.events_missing(session), measure.gaps(session)) == (0, 0)
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM audit_events WHERE action = 'collection:version:retire'"))
        session.execute(text("DELETE FROM versions WHERE number IN (2, 3)"))
        assert (measure.events_missing(session), measure.gaps(session)) == (VERSIONS // 10, 2)
        session.rollback()


def test_a_forgery_that_says_something_else_is_not_taken_for_caught(postgres, tmp_path, monkeypatch):
    changed = forgeries.Forgery("x", "event 9:", ("UPDATE audit_events SET actor = 'eve' WHERE seq = 3",))
    monkeypatch.setattr(forgeries, "FORGERIES", (changed,))
    before = names(postgres)
    with databases(postgres) as made:
        assert forgeries.try_all(made, write_model(tmp_path), lambda what: None) == {"x": False}
        assert names(postgres) - before == set(made.made)
    assert names(postgres) == before
