"""What the API and the relay tell a monitoring system: figures that follow the record, and why one is not ready."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from embedded.valkey import free_port
from registry.api.app import create_app
from registry.base.errors import InvalidRequest
from registry.base.probes import ProbeFailed
from registry.base.settings import Settings
from registry.metrics import queue
from registry.metrics.exposition import new_registry, shown
from registry.metrics.queue import QueueCollector
from registry.relay import Relay
from tests.operators_key import OPERATOR, SECRET
from tests.patience import PATIENCE, until, works
from tests.registry.problem import is_problem

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}
ROME = {"prompt": "What is the capital of Italy?", "target": "Rome"}


def samples(text):
    """Every sample of a page, by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(page, name, **labels):
    return samples(page).get((name, *sorted(labels.items())))


def scraped(api, headers=None):
    answer = api.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


@pytest.fixture
def unkept(monkeypatch):
    """Every scrape asks the database anew."""
    monkeypatch.setattr(queue, "KEPT_SECONDS", 0.0)


def test_what_waits_and_runs_is_shown_by_collection_kind_and_priority(api, workflow, engine, unkept):
    empty = scraped(api)
    assert value(empty, "melo_database_up") == 1
    of_facts = {"collection": "facts", "kind": "train", "priority": "normal"}
    assert value(empty, "melo_queue_jobs", state="queued", **of_facts) == 0
    assert value(empty, "melo_queue_oldest_seconds", collection="facts") == 0
    assert value(empty, "melo_workers_alive") == 0

    first = workflow.approve(workflow.submit(PARIS).batch.id)
    workflow.approve(workflow.submit(ROME).batch.id)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql("UPDATE batches SET priority = 'high' WHERE id = 2")
        connection.exec_driver_sql("UPDATE jobs SET created_at = now() - interval '1 hour' WHERE batch_id = 2")
        connection.exec_driver_sql("UPDATE collections SET queue = 'paused'")
        connection.exec_driver_sql("UPDATE outbox SET created_at = now() - interval '1 minute' WHERE id = 1")
        connection.exec_driver_sql(
            "INSERT INTO worker_heartbeats (worker, device, seen_at, models)"
            " VALUES ('here/1', 'cpu', now(), '{}'), ('gone/2', 'cpu', now() - interval '1 day', '{}')"
        )
    found = scraped(api)
    assert value(found, "melo_queue_jobs", state="queued", **of_facts) == 1
    assert value(found, "melo_queue_jobs", state="queued", **(of_facts | {"priority": "high"})) == 1
    assert 3600 <= value(found, "melo_queue_oldest_seconds", collection="facts") < 3660
    states = {name: value(found, "melo_queue_state", collection="facts", state=name) for name in ("open", "paused")}
    assert states == {"open": 0, "paused": 1}
    assert value(found, "melo_outbox_messages") == 2
    assert 60 <= value(found, "melo_outbox_oldest_seconds") < 120
    assert value(found, "melo_workers_alive") == 1

    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql("DELETE FROM jobs WHERE batch_id = 2")
        connection.exec_driver_sql("UPDATE collections SET queue = 'open'")
    assert workflow.claim(first)
    later = scraped(api)
    assert value(later, "melo_queue_jobs", state="queued", **of_facts) == 0
    assert value(later, "melo_queue_jobs", state="running", **of_facts) == 1
    assert value(later, "melo_queue_oldest_seconds", collection="facts") == 0  # what runs does not wait


def test_many_scrapes_ask_the_database_once(workflow, sessions):
    registry = CollectorRegistry()
    registry.register(QueueCollector(sessions))

    def waiting():
        of = {"collection": "facts", "kind": "train", "priority": "normal", "state": "queued"}
        return registry.get_sample_value("melo_queue_jobs", of)

    assert waiting() == 0
    workflow.approve(workflow.submit(PARIS).batch.id)
    assert waiting() == 0  # what was found a moment ago


def test_while_the_database_is_away_a_scrape_says_so_and_shows_no_old_numbers(database_url, api, workflow, unkept):
    assert value(scraped(api), "melo_queue_oldest_seconds", collection="facts") == 0
    with psycopg.connect(database_url, dbname="postgres", autocommit=True) as server:
        name = httpx.URL(database_url).path.strip("/")
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            away = scraped(api)
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert value(away, "melo_database_up") == 0
    assert not [name for name, *_ in samples(away) if name.startswith(("melo_queue", "melo_outbox", "melo_workers"))]
    assert value(scraped(api), "melo_database_up") == 1


def test_requests_are_counted_by_route_and_never_by_path(api, workflow):
    for number in (1, 2):
        api.get(f"/v1/batches/{number}")
    api.get("/v1/collections/facts")
    api.get("/nothing/of/the/kind")
    api.request("BREW", "/v1/batches/1")
    api.get("/v1/collections", headers={"Authorization": "Bearer none"})  # not let in
    found = scraped(api)
    of_batch = {"route": "/v1/batches/{batch_id}", "method": "GET"}
    assert value(found, "melo_http_requests_total", status="404", **of_batch) == 2
    assert value(found, "melo_http_request_seconds_count", **of_batch) == 2
    of_collection = {"route": "/v1/collections/{collection}", "method": "GET"}
    assert value(found, "melo_http_requests_total", status="200", **of_collection) == 1
    assert value(found, "melo_http_requests_total", route="none", method="GET", status="404") == 1
    assert value(found, "melo_http_requests_total", route="none", method="GET", status="401") == 1
    routes = {dict(labels)["route"] for name, *labels in samples(found) if name.startswith("melo_http_")}
    assert not [route for route in routes if "/1" in route or "/facts" in route]
    methods = {dict(labels)["method"] for name, *labels in samples(found) if name.startswith("melo_http_")}
    assert methods == {"GET", "other"}


def test_a_failing_request_counts_as_500(database_url, monkeypatch):
    app = create_app(Settings(database_url=database_url, api_key=SECRET))

    def fail(*_):
        raise ValueError("a defect")

    monkeypatch.setattr("registry.jobs.service.workers", fail)
    with TestClient(app, headers=OPERATOR, raise_server_exceptions=False) as api:
        assert api.get("/v1/workers").status_code == 500
        found = scraped(api)
    assert value(found, "melo_http_requests_total", route="/v1/workers", method="GET", status="500") == 1


def test_metrics_of_the_api_are_for_whoever_may_read_all_collections(api, remote, workflow):
    def key(role, collection=None):
        made = api.post("/v1/keys", json={"name": role, "roles": [{"role": role, "collection": collection}]})
        return {"Authorization": f"Bearer {made.json()['key']}"}

    is_problem(remote.get("/metrics"), 401, "unauthorized")
    is_problem(remote.get("/metrics", headers=key("admin", "facts")), 403, "role-needed")
    assert value(scraped(remote, key("viewer")), "melo_database_up") == 1


@pytest.fixture
def ready():
    """What a process says of itself: ready while the list is empty, else the reason in it."""
    reasons = []

    def ask():
        for reason in reasons:
            raise ProbeFailed(reason)

    ask.reasons = reasons
    return ask


def settings(**more):
    return Settings(metrics_port=0, **more)


def test_a_process_shows_metrics_and_health_while_it_runs(ready):
    with shown(settings(), new_registry(), ready) as port:
        url = f"http://127.0.0.1:{port}"
        assert "process_resident_memory_bytes" in httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/metrics", headers={"Accept": "text/plain; version=x"}).status_code == 200
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
        ready.reasons.append("the broker does not answer")
        refused = httpx.get(f"{url}/readyz")
        assert refused.status_code == 503
        assert refused.json() == {"status": "not ready", "reason": "the broker does not answer"}
        assert httpx.get(f"{url}/healthz").status_code == 200  # a restart would not help
        assert httpx.get(f"{url}/elsewhere").status_code == 404
        assert httpx.post(f"{url}/metrics").status_code == 405
        assert httpx.head(f"{url}/readyz").status_code == 503
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_a_caller_that_says_nothing_holds_up_nobody(ready):
    with shown(settings(), new_registry(), ready) as port, socket.create_connection(("127.0.0.1", port)):
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE).status_code == 200


def test_without_a_port_nothing_is_shown(ready):
    with shown(Settings(metrics_port=None), new_registry(), ready) as port:
        assert port is None


@pytest.mark.parametrize(("host", "words"), [("127.0.0.1", "in use"), ("no.such.host.invalid", "no.such.host")])
def test_a_port_that_cannot_be_had_is_a_clear_refusal(ready, host, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(InvalidRequest, match=words) as caught,
            shown(Settings(metrics_port=port, metrics_host=host), new_registry(), ready),
        ):
            pass
    assert str(port) in caught.value.detail and "MELO_METRICS_PORT" in caught.value.remedy


def test_the_relay_counts_what_it_sends_and_what_it_has_to_send_again(workflow, sessions, engine):
    away = []

    def send(message):
        if away:
            away.pop()
            raise ConnectionError("the broker is away")

    relay = Relay(sessions, send, 120, 0.01, threading.Event())
    relay.pause = lambda seconds: None

    def counted(name, **labels):
        return relay.metrics.registry.get_sample_value(f"melo_relay_{name}_total", labels)

    job = workflow.approve(workflow.submit(PARIS).batch.id)
    away.append(True)
    relay.patiently(relay.turn)
    assert (counted("messages_sent"), counted("failures")) == (1, 1)
    assert counted("jobs_sent_again", reason="lease") == 0

    workflow.claim(job)
    with engine.begin() as connection:  # its worker dies
        connection.exec_driver_sql("UPDATE outbox SET sent_at = now() - interval '1 hour'")
        connection.exec_driver_sql("UPDATE jobs SET lease_until = now() - interval '1 second'")
    relay.turn()
    assert (counted("messages_sent"), counted("jobs_sent_again", reason="lease")) == (2, 1)

    with engine.begin() as connection:  # it is queued again, and no worker comes
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql("UPDATE outbox SET sent_at = now() - interval '1 hour'")
        connection.exec_driver_sql(
            "UPDATE jobs SET state = 'queued', attempt_token = NULL, lease_until = NULL, worker = NULL"
        )
    relay.turn()
    assert counted("jobs_sent_again", reason="unclaimed") == 1

    late = workflow.submit(ROME).batch.id
    workflow.approve(late)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(f"UPDATE batches SET deadline = now() - interval '1 second' WHERE id = {late}")
    relay.turn()
    assert counted("jobs_overdue") == 1


@contextmanager
def program(database_url, port):
    """A relay whose broker is away."""
    environment = os.environ | {
        "MELO_DATABASE_URL": database_url,
        "MELO_REDIS_URL": f"redis://127.0.0.1:{free_port()}",
        "MELO_METRICS_PORT": str(port),
    }
    command = [sys.executable, "-m", "registry.relay"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_the_relay_shows_metrics_and_health_and_refuses_a_port_that_is_taken(database_url, workflow):
    url = f"http://127.0.0.1:{(port := free_port())}"
    with program(database_url, port) as relay:
        until(lambda: relay.poll() is not None or works(lambda: httpx.get(f"{url}/healthz"), httpx.ConnectError)())
        assert httpx.get(f"{url}/healthz").status_code == 200
        ready = httpx.get(f"{url}/readyz")
        assert ready.status_code == 503
        assert "the broker does not answer" in ready.json()["reason"]
        page = httpx.get(f"{url}/metrics").text
        assert value(page, "melo_relay_messages_sent_total") == 0
        assert value(page, "melo_queue_oldest_seconds", collection="facts") == 0
        with program(database_url, port) as second:
            _, said = second.communicate(timeout=PATIENCE)
        assert second.returncode == 1
        assert f"port {port}" in said and "Traceback" not in said
        relay.terminate()
        assert relay.wait(PATIENCE) == 0
