"""What goes wrong with a job: what may pass is tried again, what may not ends it, and the worker goes on."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import redis
import torch
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from melo_core.errors import MeloError
from registry.base.errors import LeaseLost, StaleBase, UnknownModel
from registry.batches.training import Training
from registry.jobs import repository as job_queries
from registry.jobs.schemas import Progress
from registry.tables.jobs import Job
from tests.patience import PATIENCE, until
from tests.worker.test_group import PAIRS, applied, approved, job, states
from worker import celery_app, group, watch
from worker.failures import may_pass
from worker.fault_points import FaultPoint
from worker.stopping import Stop
from worker.training_job import _claimed, run_waiting
from worker.watch import kept
from worker.work_loop import WorkLoop


def at(point: FaultPoint, act):
    """A worker's hook that acts the first time that it passes the point."""
    passed = []

    def hook(place: FaultPoint) -> None:
        if place is point and not passed:
            passed.append(place)
            act()

    return hook


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
    worker = replace(worker, at=at(FaultPoint.SCOPED, raising(OSError(28, "No space left on device"))))
    assert run_waiting(worker) == 1
    waiting = job(sessions, number)
    assert (waiting.state, waiting.attempt) == ("queued", 1)
    assert "No space left on device" in waiting.error
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
    assert failed.error.startswith("5 attempts failed or were lost; the last one failed with: OSError")


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
    deadline = datetime.now(UTC) + timedelta(seconds=1.5)
    batch = tiny_workflow.submit(
        {"prompt": "Who runs Acme?", "target": "Ada"}, training=Training(deadline=deadline)
    ).batch
    number = tiny_workflow.approve(batch.id)
    run_waiting(replace(worker, at=at(FaultPoint.EVALUATED, lambda: time.sleep(2))))
    assert "Batch 1 was to be applied by" in job(sessions, number).error
    assert applied(sessions) == []


@pytest.fixture
def stuck(monkeypatch):
    """Training comes to no step for as long as the test runs."""
    going_on = threading.Event()

    def hang(*_):
        going_on.wait(PATIENCE)
        raise LeaseLost("")

    monkeypatch.setattr(group, "train_edits", hang)
    yield
    going_on.set()
    for thread in threading.enumerate():
        if thread.name == "work":
            thread.join(PATIENCE)


def wait_for(sessions, state: str) -> Job:
    def found() -> Job | None:
        with sessions() as session:
            return session.query(Job).filter_by(state=state).one_or_none()

    return until(found)


def test_a_job_that_comes_to_no_step_is_given_back_by_the_thread_that_keeps_its_lease(
    tiny_workflow, worker, sessions, stuck
):
    approved(tiny_workflow, PAIRS[:1])
    worker = replace(worker, stop=Stop(seconds=0.5))
    loop = WorkLoop(lambda: run_waiting(worker), worker.stop)
    loop.start()
    wait_for(sessions, "running")
    worker.stop.ask()
    assert not loop.close()  # it is at the job still, and nobody waits for it
    assert wait_for(sessions, "queued").attempt == 0


def test_a_job_that_comes_to_no_step_long_after_its_time_fails_and_ends_the_process(
    tiny_workflow, worker, sessions, stuck, monkeypatch
):
    ended = threading.Event()
    monkeypatch.setattr(watch, "STUCK_SECONDS", 0.5)
    monkeypatch.setattr("worker.watch.os._exit", lambda status: ended.set())
    approved(tiny_workflow, PAIRS[:1])
    worker = replace(worker, job_seconds=2)
    threading.Thread(target=run_waiting, args=(worker,), daemon=True, name="work").start()
    assert "MELO_JOB_SECONDS=2" in wait_for(sessions, "failed").error
    assert ended.wait(5)


class Clock:
    """In place of the module `time`: it can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    monkeypatch.setattr(group, "time", clock)
    return clock


@pytest.fixture
def process_ended(monkeypatch) -> threading.Event:
    ended = threading.Event()
    monkeypatch.setattr("worker.watch.os._exit", lambda status: ended.set())
    return ended


def test_what_a_job_takes_is_not_charged_to_those_trained_with_it(tiny_workflow, worker, sessions, clock):
    def slow(point: FaultPoint) -> None:
        if point is FaultPoint.SCOPED:
            clock.ahead += 2000

    approved(tiny_workflow, *([pair] for pair in PAIRS[:3]))
    run_waiting(replace(worker, at=slow, job_seconds=3600))
    assert states(sessions) == ["succeeded"] * 3


def test_what_takes_too_long_together_fails_nobody_and_the_first_is_trained_by_itself(
    tiny_workflow, worker, sessions, clock
):
    def slow() -> None:
        clock.ahead += 3630

    jobs = approved(tiny_workflow, *([pair] for pair in PAIRS[:3]))
    run_waiting(replace(worker, at=at(FaultPoint.TRAINING, slow), job_seconds=3600))
    assert [job(sessions, each).state for each in jobs] == ["succeeded"] * 3
    assert [job(sessions, each).trained_together for each in jobs] == [[1], [2, 3], [2, 3]]
    assert [job(sessions, each).attempt for each in jobs] == [1] * 3


def test_a_job_that_is_stuck_fails_alone_and_those_trained_with_it_go_back(
    tiny_workflow, worker, sessions, clock, process_ended
):
    def hang() -> None:
        clock.ahead += 4000
        assert process_ended.wait(10)
        worker.stop.ask()

    jobs = approved(tiny_workflow, PAIRS[:1], PAIRS[1:2], PAIRS[2:3])
    run_waiting(replace(worker, at=at(FaultPoint.SCOPED, hang), job_seconds=3600))
    assert states(sessions) == ["failed", "queued", "queued"]
    assert "MELO_JOB_SECONDS=3600" in job(sessions, jobs[0]).error
    assert [job(sessions, each).attempt for each in jobs[1:]] == [0, 0]


def test_where_several_are_stuck_together_the_first_is_tried_again_by_itself(
    tiny_workflow, worker, sessions, clock, process_ended, monkeypatch
):
    def hang(*_):
        clock.ahead += 4000
        assert process_ended.wait(10)
        worker.stop.ask()
        raise LeaseLost("")

    monkeypatch.setattr(group, "train_edits", hang)
    first, second = approved(tiny_workflow, PAIRS[:1], PAIRS[1:2])
    run_waiting(replace(worker, job_seconds=3600))
    assert states(sessions) == ["queued", "queued"]
    assert [job(sessions, each).attempt for each in (first, second)] == [1, 0]


def test_an_error_that_nobody_expected_does_not_end_the_renewing_of_leases(tiny_workflow, worker, monkeypatch):
    approved(tiny_workflow, PAIRS[:1])
    rounds, renew = [], watch.jobs.heartbeat

    def failing(*given):
        rounds.append(1)
        if len(rounds) == 1:
            raise MemoryError
        return renew(*given)

    monkeypatch.setattr(watch.jobs, "heartbeat", failing)
    with kept(replace(worker, lease_seconds=0.2), _claimed(worker)):
        until(lambda: len(rounds) > 1)


def test_a_job_that_is_being_written_does_not_hold_up_the_leases_of_the_others(
    tiny_workflow, worker, sessions, monkeypatch
):
    monkeypatch.setattr(job_queries, "RENEWAL_WAITS", "50ms")
    first, second = approved(tiny_workflow, PAIRS[:1], PAIRS[1:2])
    claims = _claimed(worker)
    with sessions.begin() as session:
        session.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": first})
        with kept(replace(worker, lease_seconds=0.2), claims) as watches:
            watches[1].progress = Progress(stage="index")
            until(lambda: job(sessions, second).progress == {"stage": "index"})
            assert not watches[0].lost.is_set()


def test_an_error_that_nobody_expected_does_not_end_the_signs_of_life(worker, monkeypatch):
    class Enough(BaseException):
        pass

    seen = iter([MemoryError(), Enough()])

    def failing(*_):
        raise next(seen)

    monkeypatch.setattr(celery_app, "SEEN_EVERY_SECONDS", 0)
    monkeypatch.setattr(celery_app.jobs, "worker_seen", failing)
    with pytest.raises(Enough):
        celery_app._show_life(worker, None, None)


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
