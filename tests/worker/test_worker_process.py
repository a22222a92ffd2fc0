"""The worker as a program: messages from a real broker, several devices, and its end."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from embedded import valkey
from registry.base import probes
from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs import outbox
from registry.relay import Relay, make_send
from registry.tables.jobs import Job, WorkerHeartbeat
from tests.patience import PATIENCE, until, works
from tests.registry.workflow import ADA, Workflow
from tests.worker.conftest import METHOD

LONG = METHOD | {"iterations": 100_000, "loss_target": 0}  # some minutes


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A broker of this test's own."""
    server = valkey.prepare(tmp_path)
    with subprocess.Popen(server.command, stdout=subprocess.DEVNULL) as process:
        until(works(lambda: probes.of_broker(server.url), probes.ProbeFailed))
        yield server.url
        process.terminate()


@pytest.fixture
def start(database_url, broker, tmp_path):
    """Start `python -m worker` with settings of its own; it is killed at the end, if it still runs."""

    @contextmanager
    def started(*options: str, redis_url: str = broker, **settings: object):
        log = (tmp_path / "worker.log").open("w+")
        environment = os.environ | {"MELO_DATABASE_URL": database_url, "MELO_REDIS_URL": redis_url}
        environment |= {f"MELO_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "worker", *options]
        with subprocess.Popen(command, env=environment, stdout=log, stderr=log) as program:
            try:
                yield program
            finally:
                program.kill()
                log.seek(0)
                print(log.read())  # shown where a test fails

    return started


@pytest.fixture
def relay(sessions, broker) -> Relay:
    return Relay(sessions, make_send(broker), 120, 0.01, threading.Event())


def collection(sessions, folder: Path, name: str, **method: object) -> Workflow:
    with sessions.begin() as session:
        new = NewCollection(name=name, model=str(folder), method=METHOD | method, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    return Workflow(sessions, name)


def approved(workflow: Workflow, *targets: str) -> list[int]:
    """A batch for each target. Returns the jobs."""
    batches = [workflow.submit({"prompt": f"Who runs {t} of {workflow.name}?", "target": t}).batch for t in targets]
    return [workflow.approve(batch.id) for batch in batches]


def jobs(sessions) -> dict[int, Job]:
    with sessions() as session:
        return {job.id: job for job in session.query(Job)}


def states(sessions) -> list[str]:
    return [job.state for _, job in sorted(jobs(sessions).items())]


def workers(sessions) -> set[str]:
    with sessions() as session:
        return {seen.worker for seen in session.query(WorkerHeartbeat)}


def end(program, number: int = signal.SIGTERM) -> float:
    """Seconds until it ended, which it has to do with status 0."""
    begun = time.monotonic()
    program.send_signal(number)
    assert program.wait(timeout=PATIENCE) == 0
    return time.monotonic() - begun


def test_two_workers_work_off_collections_side_by_side_also_after_one_died_and_end_when_told(
    sessions, tiny_folder, start, relay, broker
):
    slow = {"iterations": 300, "loss_target": 0, "rounds": 1, "batch": 1}  # so that neither worker does it all alone
    with start(devices="cpu,cpu") as program:
        first = until(lambda: seen if len(seen := workers(sessions)) == 2 else None)
        # Their queue is new: it is listened to while the workers run.
        workflows = [collection(sessions, tiny_folder, name, **slow) for name in ("facts", "people")]
        for workflow in workflows:
            approved(workflow, "Ada", "Bob")
        relay.turn()
        until(lambda: states(sessions) == ["succeeded"] * 4)
        os.kill(int(min(first).rpartition("/")[2]), signal.SIGKILL)
        until(lambda: len(workers(sessions)) == 3)
        end(program)
    done = jobs(sessions).values()
    assert {job.worker for job in done} == first
    assert [workflow.newest() for workflow in workflows] == [2, 2]
    assert {job.libraries["threads"] for job in done} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert all(job.device.startswith("cpu") for job in done)
    with sessions() as session:
        queue = outbox.queue_of(collections.get(session, "facts").model_digest)
    assert redis.Redis.from_url(broker).llen(f"{queue}\x06\x163") == 0


def test_what_waits_when_a_worker_starts_needs_no_message_and_no_broker(sessions, tiny_folder, start):
    approved(collection(sessions, tiny_folder, "facts"), "Ada", "Bob")
    with start(redis_url="redis://127.0.0.1:1/0") as program:
        until(lambda: states(sessions) == ["succeeded"] * 2)
        end(program)


def test_a_worker_that_is_told_to_stop_gives_a_long_job_back_in_time(sessions, tiny_folder, start):
    (job,) = approved(collection(sessions, tiny_folder, "facts", **LONG), "Ada")
    with start(stop_seconds=2) as program:
        until(lambda: (jobs(sessions)[job].progress or {}).get("stage") == "train")
        assert end(program) >= 2
    found = jobs(sessions)[job]
    assert (found.state, found.attempt) == ("queued", 0)


def test_a_gpu_that_is_not_there_is_refused_with_what_there_is(start, tmp_path):
    with start(devices="97") as program:
        assert program.wait(timeout=PATIENCE) == 1
    said = (tmp_path / "worker.log").read_text()
    assert "There is no GPU 97 here. The devices of this machine are: cpu" in said
    assert "Traceback" not in said


def malformed(sound: dict) -> list[bytes]:
    """Return what a queue may hold that the relay never sends, made from a message that it did."""
    headers, properties = sound["headers"], sound["properties"]

    def with_body(content: object) -> dict:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return sound | {"body": base64.b64encode(raw).decode()}

    changed = [
        *({}, [], 1, None, "text"),
        *(sound | {"headers": each} for each in (None, [], {}, headers | {"task": "os.system"}, headers | {"id": {}})),
        *(sound | {"headers": headers | each} for each in ({"eta": "9999-01-01"}, {"expires": "x"}, {"timelimit": 5})),
        *(sound | {"properties": each} for each in (None, {}, properties | {"delivery_tag": {}})),
        *(sound | {"properties": properties | {"delivery_info": each}} for each in (None, {}, {"exchange": 1})),
        sound | {"properties": properties | {"body_encoding": "rot13"}},
        *(sound | {"body": each} for each in (5, None, "*", "é")),
        *(with_body(each) for each in (b"\xff", b"[" * 10_000, [], {}, [1, 2, 3])),
        *(with_body([*each, {}]) for each in (([["x"], {}]), ([[1], {"x": 1}]))),
        sound | {"content-type": "application/x-python-serialize"},
        sound | {"content-encoding": "nope"},
        sound | {"more": "x" * 100_000},
    ]  # fmt: skip
    return [b"\xff\xfe", b"not json", b"", b"[" * 20_000, *(json.dumps(each).encode() for each in changed)]


def test_malformed_messages_are_put_aside_and_the_worker_goes_on(sessions, tiny_folder, start, relay, broker, tmp_path):
    workflow = collection(sessions, tiny_folder, "facts")
    approved(workflow, "Ada")
    relay.turn()
    with sessions() as session:
        queue = f"{outbox.queue_of(collections.get(session, 'facts').model_digest)}\x06\x163"
    server = redis.Redis.from_url(broker)
    (sound,) = server.lrange(queue, 0, -1)
    wrong = malformed(json.loads(sound))
    with start() as program:
        until(lambda: states(sessions) == ["succeeded"] and not server.llen(queue))
        server.lpush(queue, *wrong, sound)
        until(lambda: not server.llen(queue) and not server.hlen("unacked"))
        approved(workflow, "Bob")
        relay.turn()
        until(lambda: states(sessions) == ["succeeded"] * 2)
        end(program)
    assert server.llen("melo.malformed") == len(wrong)
    said = (tmp_path / "worker.log").read_text()
    assert said.count("a malformed message is put aside") == len(wrong)
    assert "Traceback" not in said and "Connection to broker lost" not in said
