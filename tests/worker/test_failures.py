"""What goes wrong with a job: what may pass is tried again, what may not ends it, and the worker goes on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import redis
import torch
from safetensors import SafetensorError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from melo_core.errors import MeloError
from registry.base.errors import PastDeadline, StaleBase, UnknownModel
from registry.batches.training import Training
from tests.patience import until
from tests.worker.test_group import PAIRS, applied, approved, job, states
from tests.worker.training import at
from worker.failures import may_pass
from worker.fault_points import FaultPoint
from worker.stopping import Stop
from worker.training_job import run_waiting
from worker.watch import Watch
from worker.work_loop import WorkLoop


def raising(error: Exception):
    def act():
        raise error

    return act


@pytest.fixture
def now_due(sessions):
    """Let the pause after a failure be over."""

    def run():
        with sessions.begin() as session:
            session.execute(text("UPDATE jobs SET not_before = now() - interval '1 s' WHERE not_before IS NOT NULL"))

    return run


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError("by peer"), True),
        (OSError(28, "No space left on device"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:595] . Disk quota exceeded"), True),
        (FileNotFoundError("model.safetensors"), False),
        (PermissionError("model.safetensors"), False),
        (httpx.ConnectTimeout("the hub"), True),
        (redis.ConnectionError("the broker"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (OperationalError("", {}, Exception("the server closed the connection")), True),
        (UnknownModel("there is no such model"), False),
        (MeloError("edit 1: the prompt is too long"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_may_pass_is_told_from_what_may_not(error, passes):
    assert may_pass(error) is passes


def test_what_a_trigger_refuses_does_not_pass(sessions):
    with sessions() as session, pytest.raises(DBAPIError) as refused:
        session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'append-only'; END $$"))
    assert not may_pass(refused.value)


def test_a_job_that_failed_at_something_that_passes_waits_says_why_and_succeeds_later(
    tiny_workflow, worker, sessions, now_due
):
    (number,) = approved(tiny_workflow, PAIRS[:1])
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    worker = replace(worker, at=at(FaultPoint.SCOPED, raising(full)))
    assert run_waiting(worker) == 1
    waiting = job(sessions, number)
    assert (waiting.state, waiting.attempt) == ("queued", 1)
    assert "the worker's disk is full; free some space, or set MELO_CACHE" in waiting.error
    assert run_waiting(worker) == 0  # its time has not come
    now_due()
    run_waiting(worker)
    assert job(sessions, number).state == "succeeded"
    assert job(sessions, number).error is None


def test_a_failure_that_keeps_coming_ends_the_job_after_five_attempts(tiny_workflow, worker, sessions, now_due):
    (number,) = approved(tiny_workflow, PAIRS[:1])
    full = OSError(28, "No space left on device")
    for _ in range(5):
        run_waiting(replace(worker, at=at(FaultPoint.CLAIMED, lambda: None), model_cache=Broken(full)))
        now_due()
    failed = job(sessions, number)
    assert failed.state == "failed"
    assert failed.error.startswith(
        "5 attempts failed or were lost; the last one failed with: the worker's disk is full"
    )


class Broken:
    """A cache from which no model can be had."""

    loaded, dtype, device_name = (), "float32", "cpu"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def begin_peak(self) -> None: ...

    def base(self, *_):
        raise self.error


def test_what_nobody_expected_fails_its_job_and_the_worker_takes_the_next(tiny_workflow, worker, sessions):
    first, second = approved(tiny_workflow, PAIRS[:1], PAIRS[1:2])
    assert run_waiting(replace(worker, at=at(FaultPoint.SCOPED, raising(ZeroDivisionError("a defect"))))) == 2
    assert "unexpected ZeroDivisionError: a defect" in job(sessions, first).error
    assert (job(sessions, first).state, job(sessions, second).state) == ("failed", "succeeded")


@pytest.mark.parametrize("point", [FaultPoint.TRAINED, FaultPoint.FINISHING, FaultPoint.WRITTEN])
def test_connections_that_break_cost_an_attempt_and_nothing_else(
    tiny_workflow, worker, sessions, engine, now_due, point
):
    def cut() -> None:
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    approved(tiny_workflow, PAIRS[:1])
    worker = replace(worker, at=at(point, cut))
    run_waiting(worker)
    now_due()
    run_waiting(worker)
    assert states(sessions) == ["succeeded"]
    assert applied(sessions) == [1]
    assert tiny_workflow.verify().ok


def test_a_job_that_takes_too_long_fails_with_the_limit_as_its_reason(tiny_workflow, worker, sessions):
    (number,) = approved(tiny_workflow, PAIRS[:1])
    run_waiting(replace(worker, job_seconds=0.001))
    failed = job(sessions, number)
    assert (failed.state, failed.error.partition(".")[0]) == ("failed", "The job took longer than MELO_JOB_SECONDS=0")


def test_a_batch_is_not_applied_after_its_deadline(tiny_workflow, worker, sessions):
    deadline = datetime.now(UTC) + timedelta(seconds=2)
    batch = tiny_workflow.submit(
        {"prompt": "Who runs Acme?", "target": "Ada"}, training=Training(deadline=deadline)
    ).batch
    number = tiny_workflow.approve(batch.id)
    run_waiting(replace(worker, at=at(FaultPoint.EVALUATED, lambda: until(lambda: datetime.now(UTC) > deadline))))
    assert "Batch 1 was to be applied by" in job(sessions, number).error
    assert applied(sessions) == []


def test_a_job_that_others_keep_overtaking_is_tried_again_later(tiny_workflow, worker, sessions, monkeypatch):
    def overtaken(*_, **__):
        raise StaleBase("Another version came first.")

    monkeypatch.setattr("worker.applying.versions.apply", overtaken)
    (number,) = approved(tiny_workflow, PAIRS[:1])
    run_waiting(worker)
    waiting = job(sessions, number)
    assert (waiting.state, waiting.attempt) == ("queued", 1)
    assert "kept coming first" in waiting.error


def test_a_defect_in_the_loop_does_not_end_it(monkeypatch):
    monkeypatch.setattr("worker.work_loop.AFTER_AN_ERROR_SECONDS", 0)
    rounds, stop = [], Stop(seconds=1)

    def work():
        rounds.append(1)
        raise ZeroDivisionError

    loop = WorkLoop(work, stop)
    loop.start()
    loop.wake_and_wait()
    loop.wake_and_wait()
    assert len(rounds) >= 2
    stop.ask()
    assert loop.close()


def test_a_deadline_passes_by_the_databases_clock_and_not_by_the_workers(tiny_workflow, worker):
    hour, second = timedelta(hours=1), timedelta(seconds=1)
    (number,) = approved(tiny_workflow, PAIRS[:1])
    claim, here = tiny_workflow.claim(number), datetime.now(UTC)
    assert abs(claim.claimed_at - here) < hour
    Watch(worker, replace(claim, claimed_at=here - 2 * hour, deadline=here - hour)).may_go_on()
    with pytest.raises(PastDeadline):
        Watch(worker, replace(claim, claimed_at=here + hour, deadline=here + hour - second)).may_go_on()
