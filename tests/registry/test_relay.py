"""The relay: what the outbox holds reaches the broker, and a job that nobody holds is sent again."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from embedded import valkey
from registry.relay import Relay, together
from tests.patience import PATIENCE, until
from tests.registry.workflow import Workflow

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


@pytest.fixture
def sent():
    return []


@pytest.fixture
def relay(sessions, sent):
    return Relay(sessions, lambda message: sent.append((message.topic, message.job_id)), 120, 0.01, threading.Event())


@pytest.fixture
def job(workflow: Workflow) -> int:
    return workflow.approve(workflow.submit(PARIS).batch.id)


def run_sql(workflow, statement):
    with workflow.sessions.begin() as session:
        session.execute(text(statement))


def test_an_approved_batchs_message_is_sent_once(relay, sent, job):
    assert [relay.turn(), relay.turn()] == [1, 0]
    assert sent == [("worker.train", job)]


def test_a_message_that_could_not_be_sent_stays_in_the_outbox(relay, sent, job):
    def fail(message):
        raise ConnectionError("the broker is away")

    working, relay.send = relay.send, fail
    with pytest.raises(ConnectionError):
        relay.turn()
    relay.send = working
    relay.turn()
    assert sent == [("worker.train", job)]


def test_a_job_whose_worker_died_is_sent_again_once_per_lease(workflow, relay, sent, job):
    relay.turn()
    workflow.claim(job)
    relay.turn()
    assert len(sent) == 1
    run_sql(workflow, "UPDATE outbox SET sent_at = now() - interval '1 minute'")
    run_sql(workflow, "UPDATE jobs SET lease_until = now() - interval '1 second'")
    relay.turn()
    relay.turn()
    assert sent == [("worker.train", job)] * 2


def test_a_job_that_nobody_claimed_for_long_is_sent_again(workflow, relay, sent, job):
    relay.turn()
    run_sql(workflow, "UPDATE outbox SET sent_at = now() - interval '1 hour'")
    relay.turn()
    relay.turn()
    assert len(sent) == 2
    workflow.finish(workflow.claim(job))
    run_sql(workflow, "UPDATE outbox SET sent_at = now() - interval '1 hour'")
    relay.turn()
    assert len(sent) == 2


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A broker of this test's own."""
    server = valkey.prepare(tmp_path)
    with subprocess.Popen(server.command, stdout=subprocess.DEVNULL) as process:
        yield server.url
        process.terminate()


def test_the_program_sends_through_the_broker_and_ends_on_sigterm(database_url, broker, job):
    environment = os.environ | {"MELO_DATABASE_URL": database_url, "MELO_REDIS_URL": broker}
    queue = redis.Redis.from_url(broker)
    with subprocess.Popen([sys.executable, "-m", "registry.relay"], env=environment) as program:

        def sent() -> bytes | None:
            with suppress(redis.ConnectionError):
                return next(map(queue.rpop, queue.scan_iter("melo.*", _type="list")), None)
            return None

        message = until(sent)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=PATIENCE) == 0
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["argsrepr"]) == ("worker.train", f"[{job}]")


@pytest.mark.parametrize("broken", [0, 1])
def test_when_one_half_fails_the_other_stops_and_the_failure_is_seen(broken):
    stopping = threading.Event()

    def fails():
        raise ValueError("a defect")

    halves = [stopping.wait, stopping.wait]
    halves[broken] = fails
    with pytest.raises(ValueError, match="a defect"):
        together(stopping, *halves)


def test_the_program_says_that_the_schema_is_missing(empty_database_url, broker):
    environment = os.environ | {"MELO_DATABASE_URL": empty_database_url, "MELO_REDIS_URL": broker}
    program = subprocess.run(
        [sys.executable, "-m", "registry.relay"], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert program.returncode == 1
    assert "melo migrate" in program.stderr


def test_the_program_waits_for_a_database_and_a_broker_that_are_away(broker):
    environment = os.environ | {"MELO_DATABASE_URL": "postgresql://u@127.0.0.1:1/x", "MELO_REDIS_URL": broker}
    with subprocess.Popen([sys.executable, "-m", "registry.relay"], env=environment) as program:
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(timeout=6)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=PATIENCE) == 0
