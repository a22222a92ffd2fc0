"""The API: its answers, its refusals as problems with a way out, and who is served."""

import json
import socket
import threading
import time
from base64 import b64encode

import httpx
import psycopg
import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import text

from registry.app import create_app
from registry.client import MeloClient, MeloClientError
from registry.collections.method import complete_settings
from registry.collections.schemas import MAX_CALIBRATION_BYTES
from registry.digests import sha256_hex
from registry.jobs import service as queue
from registry.settings import Settings
from tests.registry.desk import calibration

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


def is_problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {"type", "title", "status", "code", "detail", "remedy", "problems"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    assert body["remedy"]
    return body


def test_a_collection_is_created_shown_and_listed(api, model_folder):
    made = api.post("/v1/collections", json={"name": "facts", "model": model_folder, "method": {"rank": 2}})
    assert made.status_code == 201
    assert made.json()["window"] == 256
    assert api.get("/v1/collections/facts").json() == made.json()
    assert api.get("/v1/collections").json() == [made.json()]
    is_problem(api.post("/v1/collections", json={"name": "facts", "model": model_folder}), 409, "name-taken")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "facts", "model": "gpt-17"}, 422, "unknown-model"),
        ({"name": "facts", "model": "/tmp", "encoder": "x"}, 422, "unknown-model"),
        ({"name": "Facts!", "model": "x"}, 422, "invalid-request"),
        ({"name": "facts"}, 422, "invalid-request"),
        ({"name": "facts", "model": "x", "colour": "red"}, 422, "invalid-request"),
        ({"name": "facts", "model": "x", "method": {"a": "\x00"}}, 422, "invalid-request"),
        ([], 422, "invalid-request"),
    ],
)
def test_a_collection_that_cannot_be_made_is_a_problem(api, body, status, code):
    is_problem(api.post("/v1/collections", json=body), status, code)
    assert api.get("/v1/collections").json() == []


def test_a_correction_goes_its_whole_way_through_the_api(api, desk):
    answer = api.post(
        "/v1/collections/facts/batches", json={"edits": [PARIS], "message": "capitals"}, headers={"X-Melo-Actor": "ada"}
    )
    assert answer.status_code == 201
    batch = answer.json()["batch"]
    assert (batch["state"], batch["submitted_by"]) == ("submitted", "ada")
    assert "waits for a decision" in batch["hint"]
    approved = api.post(
        f"/v1/batches/{batch['id']}/approve", json={"reason": "checked"}, headers={"X-Melo-Actor": "ben"}
    ).json()
    assert (approved["state"], approved["job"]["state"]) == ("approved", "queued")
    assert "No worker is running" in approved["hint"]
    desk.finish(desk.claim(approved["job"]["id"]))
    shown = api.get(f"/v1/batches/{batch['id']}").json()
    assert (shown["state"], shown["version"], shown["job"]["loss_curve"]) == ("applied", 1, [2.0, 0.01])
    (edit,) = api.get("/v1/collections/facts/edits", params={"active": True}).json()
    assert edit["active_since"] == 1
    alias = api.put("/v1/collections/facts/aliases/production", json={"version": 1, "reason": "release"})
    assert alias.json()["number"] == 1
    plan = api.post(
        "/v1/collections/facts/retire", json={"edits": [edit["id"]], "reason": "wrong", "dry_run": True}
    ).json()
    assert (plan["number"], plan["diff"]["retired"][0]["id"]) == (2, edit["id"])
    assert len(api.get("/v1/collections/facts/versions").json()) == 1
    retired = api.post("/v1/collections/facts/retire", json={"edits": [edit["id"]], "reason": "wrong"}).json()
    assert (retired["number"], retired["kind"], retired["edit_count"]) == (2, "retire", 0)
    back = api.post("/v1/collections/facts/rollback", json={"to": 1, "reason": "it was right"}).json()
    assert back["content_digest"] == api.get("/v1/collections/facts/versions/1").json()["content_digest"]
    assert api.get("/v1/collections/facts/diff", params={"a": 1, "b": 3}).json()["same_content"]
    assert [each["aliases"] for each in api.get("/v1/collections/facts/versions").json()] == [[], [], ["production"]]
    assert api.get("/v1/resolve", params={"model": "facts@production"}).json()["number"] == 1
    events = api.get("/v1/audit", params={"collection": "facts"}).json()
    assert [event["actor"] for event in events][-3:] == ["ben", "ada", "ada"]
    assert api.get("/v1/audit/verify").json()["ok"]


def test_all_problems_of_a_submission_come_at_once(api, desk):
    answer = api.post(
        "/v1/collections/facts/batches",
        json={"edits": [{"prompt": "", "target": "x", "line": 3}, PARIS, {**PARIS, "target": "Lyon"}, {"target": 1}]},
    )
    body = is_problem(answer, 422, "invalid-edits")
    assert {problem["position"] for problem in body["problems"]} == {1, 3, 4}
    assert body["problems"][0]["line"] == 3
    assert api.get("/v1/collections/facts/batches").json() == []


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
def test_a_bad_path_is_a_problem_and_never_a_defect(api, desk, path, status):
    answer = api.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_text_that_no_encoding_carries_is_a_problem(api, desk):
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
def test_a_body_over_the_limit_is_refused(database_url, desk, streamed):
    app = create_app(Settings(database_url=database_url, max_request_bytes=1000))
    body = json.dumps({"edits": [PARIS] * 50}).encode()
    headers = {"Content-Type": "application/json"}
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as api:
        content = iter([body[:500], body[500:]]) if streamed else body
        answer = api.post("/v1/collections/facts/batches", content=content, headers=headers)
    assert "1,000 bytes" in is_problem(answer, 413, "too-large")["detail"]


def test_every_answer_has_a_request_id_that_its_event_keeps(api, desk):
    assert len(api.get("/healthz").headers["X-Request-ID"]) == 32
    answer = api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={"X-Request-ID": "req-7"})
    assert answer.headers["X-Request-ID"] == "req-7"
    assert api.get("/v1/audit", params={"limit": 1}).json()[0]["request_id"] == "req-7"
    assert api.get("/healthz", headers={"X-Request-ID": "a\tb"}).headers["X-Request-ID"] != "a\tb"


def test_actors_may_have_any_name_that_can_be_printed(api, desk):
    answer = api.post(
        "/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={"X-Melo-Actor": "J%C3%BCrgen%20M."}
    )
    assert answer.json()["batch"]["submitted_by"] == "Jürgen M."
    is_problem(
        api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={"X-Melo-Actor": "a%0Ab"}),
        422,
        "invalid-request",
    )


@pytest.mark.parametrize("header", [None, "Bearer wrong", "s3cret", "Bearer", "Basic s3cret", "Bearer s3cret2"])
def test_with_a_key_set_no_request_is_served_without_it(api_with_key, header):
    headers = {"Authorization": header} if header else {}
    answer = api_with_key.get("/v1/collections", headers=headers)
    is_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_with_the_key_everybody_is_served(api_with_key):
    answer = api_with_key.get(
        "/v1/collections", headers={"Authorization": "Bearer s3cret", "Host": "registry.example.org"}
    )
    assert answer.json() == []


@pytest.mark.parametrize(
    ("client", "host", "served"),
    [
        ("127.0.0.1", "127.0.0.1:8410", True),
        ("127.0.0.1", "localhost:8410", True),
        ("::1", "[::1]:8410", True),
        ("10.0.0.7", "127.0.0.1:8410", False),
        ("127.0.0.1", "evil.example.org", False),
        ("127.0.0.1", "127.0.0.1.evil.example.org", False),
    ],
)
def test_without_a_key_only_this_machine_under_its_own_name_is_served(database_url, client, host, served):
    app = create_app(Settings(database_url=database_url, api_key=None))
    with TestClient(app, client=(client, 50000)) as api:
        answer = api.get("/v1/collections", headers={"Host": host})
        assert answer.status_code == (200 if served else 403), answer.text
        if not served:
            is_problem(answer, 403, "not-local")


def test_an_older_schema_is_a_problem_that_names_the_way_out(empty_database_url):
    app = create_app(Settings(database_url=empty_database_url))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as api:
        for path in ("/v1/collections", "/readyz"):
            assert "melo migrate" in is_problem(api.get(path), 503, "schema-mismatch")["remedy"]
        assert api.get("/healthz").json()["status"] == "ok"


def test_a_database_that_goes_away_in_the_middle_is_a_problem_and_its_return_is_noticed(api, desk, postgres, engine):
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


def test_the_openapi_page_describes_every_path(api):
    described = api.get("/openapi.json").json()
    assert "/v1/collections/{collection}/batches" in described["paths"]
    assert api.get("/docs").status_code == 200
    submission = described["components"]["schemas"]["Submission"]["properties"]["edits"]["items"]
    assert {"prompt", "target", "rephrases"} <= submission["properties"].keys()


@pytest.fixture
def served(database_url):
    """The API behind a real server; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(create_app(Settings(database_url=database_url, api_key=None)), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_the_client_asks_for_all_of_it(served, desk):
    with MeloClient(served, actor="Jürgen") as client:
        assert client.ready()
        report = client.submit("facts", [PARIS], message="capitals")
        assert report.batch.submitted_by == "Jürgen"
        assert [batch.id for batch in client.batches("facts", state="submitted")] == [report.batch.id]
        with pytest.raises(MeloClientError) as caught:
            client.approve(report.batch.id)
        assert (caught.value.status, caught.value.code) == (403, "self-approval")
    with MeloClient(served, actor="ben") as client:
        job = client.approve(report.batch.id, "checked").job
        desk.finish(desk.claim(job.id))
        with desk.sessions.begin() as session:
            queue.worker_seen(session, "w1", "cpu", {"facts": 1})
        assert [worker.alive for worker in client.workers()] == [True]
        assert client.set_alias("facts", "production", 1).number == 1
        assert [alias.name for alias in client.aliases("facts")] == ["production"]
        (edit,) = client.edits("facts", active=True)
        assert client.plan_retire("facts", [edit.id]).number == 2
        assert client.retire("facts", [edit.id], "wrong").number == 2
        assert client.plan_rollback("facts", 1).diff.added[0].id == edit.id
        assert client.rollback("facts", 1, "right").restores == 1
        assert [version.number for version in client.versions("facts")] == [3, 2, 1]
        assert client.version("facts", 1).aliases == ["production"]
        assert client.diff("facts", 1, 2).retired[0].target == "Paris"
        assert client.resolve("facts@production").number == 1
        assert len(client.alias_history("facts", "production")) == 1
        assert client.collection("facts").latest == 3
        assert [each.name for each in client.collections()] == ["facts"]
        assert client.audit(collection="facts", limit=1)[0].action == "collection:version:rollback"
        assert client.verify().ok


def test_the_client_says_where_nobody_answers():
    with MeloClient("http://127.0.0.1:1") as client, pytest.raises(MeloClientError) as caught:
        client.collections()
    assert "does not answer at http://127.0.0.1:1" in caught.value.detail
    assert "melo up" in caught.value.remedy


def test_the_client_tells_a_server_that_is_no_registry(served):
    with MeloClient(f"{served}/elsewhere") as client, pytest.raises(MeloClientError) as caught:
        client.collections()
    assert caught.value.status == 404
    assert httpx.get(f"{served}/v1/nothing").json()["code"] == "not-found"


def test_a_statement_that_takes_too_long_is_a_problem(database_url, engine, desk):
    app = create_app(Settings(database_url=database_url, statement_timeout_seconds=0.2))
    with (
        TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as api,
        engine.begin() as connection,
    ):
        connection.execute(text("LOCK TABLE collections"))
        is_problem(api.get("/v1/collections"), 503, "database-away")


def refused_collection(api: TestClient, model: str, **fields: object) -> str:
    """Why no collection was made."""
    body = is_problem(
        api.post("/v1/collections", json={"name": "odd", "model": model} | fields), 422, "invalid-request"
    )
    assert api.get("/v1/collections").json() == []
    return body["detail"]


def test_a_collection_stores_all_settings_of_its_method_so_that_a_later_default_changes_nothing(api, model_folder):
    made = api.post("/v1/collections", json={"name": "facts", "model": model_folder, "method": {"rank": 2}}).json()
    assert made["method"] == complete_settings({"rank": 2}, "default")
    assert {"radius", "layers", "key_encoder"} < made["method"].keys()
    assert made["encoder"] == "all-minilm-l6-v2"
    assert api.get("/v1/audit/verify").json()["ok"]


def test_a_preset_gives_the_settings_that_are_not_given_and_hidden_keys_name_the_model_as_encoder(api, model_folder):
    body = {"name": "facts", "model": model_folder, "preset": "paper", "method": {"key_layer": 3}}
    made = api.post("/v1/collections", json=body).json()
    assert made["method"] == complete_settings({"key_layer": 3}, "paper")
    assert (made["encoder"], made["method"]["key_encoder"], made["method"]["key_layer"]) == ("hidden", "hidden", 3)
    assert made["calibration_sha256"] is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": {"ranks": 2}}, "'ranks'"),
        ({"method": {"rank": "2"}}, "rank must be a whole number"),
        ({"method": {"rank": 0}}, "rank must be at least 1"),
        ({"method": {"key_pooling": "first"}}, "key_pooling"),
        ({"preset": "papper"}, "'papper'"),
        ({"preset": "paper", "encoder": "all-minilm-l6-v2"}, "'all-minilm-l6-v2' would not be used"),
        ({"encoder": "hidden"}, "key_encoder is sentence"),
    ],
)
def test_settings_that_the_method_does_not_take_are_refused_by_name(api, model_folder, fields, said):
    assert said in refused_collection(api, model_folder, **fields)


def test_a_calibration_given_at_creation_is_the_collections_and_is_told_in_the_audit_log(api, model_folder, engine):
    given = calibration(metric=[384, 384])
    body = {"name": "facts", "model": model_folder, "calibration": b64encode(given).decode()}
    made = api.post("/v1/collections", json=body)
    assert made.status_code == 201
    assert made.json()["calibration_sha256"] == sha256_hex(given)
    (event,) = api.get("/v1/audit", params={"collection": "facts"}).json()
    assert event["details"]["calibration"] == sha256_hex(given)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT data FROM calibrations")).scalar_one() == given
    assert api.get("/v1/audit/verify").json()["ok"]


@pytest.mark.parametrize(
    ("given", "method", "said"),
    [
        (b"", {}, "no calibration"),
        (b"mean and covariance", {}, "no calibration"),
        (b"\xff" * 8 + b"{}", {}, "no calibration"),
        (calibration()[:-1], {}, "no calibration"),
        (calibration() + b" ", {}, "no calibration"),
        (calibration(dtype="F16"), {}, "no calibration"),
        (calibration(matrix=[384, 383]), {}, "no calibration"),
        (calibration(metric=[2, 2]), {}, "no calibration"),
        (calibration(other=[1]), {}, "no calibration"),
        (calibration(32), {}, "keys of 32 dimensions, but this collection's have 384"),
        (calibration(), {"whitened": False}, "whitened is false"),
    ],
)
def test_bytes_that_are_no_calibration_of_the_encoder_are_refused(api, model_folder, given, method, said):
    encoded = b64encode(given).decode()
    assert said in refused_collection(api, model_folder, calibration=encoded, method=method)


def test_a_calibration_that_is_no_base64_or_too_large_is_refused(api, model_folder):
    assert "Base64" in refused_collection(api, model_folder, calibration="mean and covariance!!")
    long = b64encode(bytes(MAX_CALIBRATION_BYTES + 1)).decode()
    assert f"at most {MAX_CALIBRATION_BYTES}" in refused_collection(api, model_folder, calibration=long)
