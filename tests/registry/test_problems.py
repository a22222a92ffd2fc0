"""Refusals and failures: each is a problem with a way out, and none a defect."""

import json

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from registry.api.app import create_app
from registry.base.settings import Settings
from tests.operators_key import OPERATOR, SECRET
from tests.registry.problem import is_problem

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/collections/nothing", 404),
        ("/v1/collections/a%00b", 422),
        ("/v1/batches/1", 404),
        ("/v1/batches/99999999999999999999", 422),
        ("/v1/batches/x", 422),
        ("/v1/collections/facts/versions/1", 404),
        ("/v1/collections/facts/versions/99999999999", 422),
        ("/v1/collections/facts/diff?a=0&b=7", 404),
        ("/v1/collections/facts/aliases/%00/history", 422),
        ("/v1/resolve?model=facts@%00", 422),
        ("/v1/resolve?model=@", 422),
        ("/v1/resolve?model=facts@99999999999999999999", 422),
        ("/v1/audit?subject=%00", 422),
        ("/v1/nothing", 404),
    ],
)
def test_a_bad_path_is_a_problem_and_never_a_defect(api, workflow, path, status):
    answer = api.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_text_that_no_encoding_carries_is_a_problem(api, workflow):
    headers = {"Content-Type": "application/json"}
    for body in (
        '{"edits": [{"prompt": "\\ud800", "target": "x"}]}',
        '{"edits": [{"prompt": "x", "target": "x", "\\ud800": 1}]}',
        '{"edits": [{"prompt": "x", "target": "x"}], "\\ud800": 1}',
        '{"edits": [{"prompt": "x", "target": "x"}], "message": "\\u0000"}',
        '{"edits": [',
        "\xff",
    ):
        answer = api.post("/v1/collections/facts/batches", content=body.encode("latin-1"), headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_over_the_limit_is_refused(database_url, workflow, streamed):
    app = create_app(Settings(database_url=database_url, max_request_bytes=1000, api_key=SECRET))
    body = json.dumps({"edits": [PARIS] * 50}).encode()
    headers = {"Content-Type": "application/json"}
    with TestClient(app, headers=OPERATOR) as api:
        content = iter([body[:500], body[500:]]) if streamed else body
        answer = api.post("/v1/collections/facts/batches", content=content, headers=headers)
    assert "1,000 bytes" in is_problem(answer, 413, "too-large")["detail"]


def test_an_older_schema_is_a_problem_that_names_the_remedy(empty_database_url):
    app = create_app(Settings(database_url=empty_database_url, api_key=SECRET))
    with TestClient(app, headers=OPERATOR) as api:
        for path in ("/v1/collections", "/readyz"):
            assert "melo migrate" in is_problem(api.get(path), 503, "schema-mismatch")["remedy"]
        assert api.get("/healthz").json()["status"] == "ok"


def test_a_database_that_goes_away_in_the_middle_is_a_problem_and_its_return_is_noticed(
    api, workflow, postgres, engine
):
    name = engine.url.database
    engine.dispose()
    assert api.get("/readyz").status_code == 200
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        for answer in (api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}), api.get("/readyz")):
            is_problem(answer, 503, "database-away")
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert api.get("/readyz").status_code == 200
    assert api.get("/v1/collections/facts/batches").json() == []


def test_a_locked_table_is_a_problem_that_is_named(database_url, engine, workflow):
    app = create_app(Settings(database_url=database_url, statement_timeout_seconds=0.2, api_key=SECRET))
    with (
        TestClient(app, headers=OPERATOR) as api,
        engine.begin() as connection,
    ):
        connection.execute(text("LOCK TABLE collections"))
        detail = is_problem(api.get("/v1/collections"), 503, "database-locked")["detail"]
        assert "another transaction holds a lock" in detail.lower()
