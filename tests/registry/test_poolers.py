"""Behind pgbouncer each transaction may have another connection: none fails, and none leaves its settings."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from registry.api.app import create_app
from registry.audit.changes import listening
from registry.base.database import make_engine, require_no_drift, upgrade
from registry.base.settings import Settings
from tests.conftest import copy_of
from tests.operators_key import OPERATOR, SECRET
from tests.registry.workflow import Workflow
from tests.servers import pooled

SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone", "jit", "datestyle")


@pytest.fixture
def pooler(database_url):
    with pooled(database_url, "transaction") as url:
        yield url


def test_160_requests_at_once_are_served_through_a_pooler(pooler, workflow, sessions):
    def ask(number):
        if number % 2:
            return api.get("/v1/collections/facts/batches").status_code
        record = {"prompt": f"Who leads company {number}?", "target": f"Person {number}"}
        return api.post("/v1/collections/facts/batches", json={"edits": [record]}).status_code

    app = create_app(Settings(database_url=pooler, api_key=SECRET))
    with TestClient(app, headers=OPERATOR) as api:
        with ThreadPoolExecutor(160) as threads:
            assert list(threads.map(ask, range(160))) == [201, 200] * 80
        assert api.get("/readyz").status_code == 200
    assert Workflow(sessions).verify().ok


def settings_of(url):
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        return [connection.execute(f"SHOW {name}").fetchone()[0] for name in SETTINGS]


def test_no_setting_outlives_its_transaction(pooler, database_url):
    with pooled(database_url, "transaction", size=1) as url:
        usual = settings_of(url)
        engine = make_engine(url, statement_timeout_seconds=7)
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            assert connection.scalar(text("SHOW statement_timeout")) == "7s"
            assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        assert settings_of(url) == usual
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
        with listening(engine) as listener:
            listener.next(None, 0)
        with psycopg.connect(url, autocommit=True) as connection:
            assert connection.execute("SELECT * FROM pg_listening_channels()").fetchall() == []
        engine.dispose()


def test_changes_are_noticed_through_a_pooler(pooler, workflow):
    engine = make_engine(pooler)
    with listening(engine) as listener:
        before = listener.next(None, 0)
        workflow.submit({"prompt": "Who is new?", "target": "Nobody"})
        assert listener.next(before.seq, 0.01).seq == before.seq + 1
    engine.dispose()


def test_a_database_is_migrated_through_a_pooler(postgres):
    for url in copy_of(postgres, "template1"):
        with pooled(url, "transaction") as through:
            upgrade(through)
            require_no_drift(through)
