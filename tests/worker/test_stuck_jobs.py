"""Jobs that take too long or come to no step, and the thread that keeps their leases."""

import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import text

from registry.base.errors import LeaseLost
from registry.jobs import repository as job_queries
from registry.jobs.schemas import Progress
from registry.tables.jobs import Job
from tests.patience import PATIENCE, until
from tests.worker.test_group import PAIRS, approved, job, states
from tests.worker.training import at
from worker import celery_app, group, watch
from worker.fault_points import FaultPoint
from worker.stopping import Stop
from worker.training_job import _claimed, run_waiting
from worker.watch import kept
from worker.work_loop import WorkLoop


@pytest.fixture
def stuck(monkeypatch):
    """Training comes to no step for as long as the test runs; the event is set once it has begun."""
    begun, going_on = threading.Event(), threading.Event()

    def hang(*_):
        begun.set()
        going_on.wait(PATIENCE)
        raise LeaseLost("")

    monkeypatch.setattr(group, "train_edits", hang)
    yield begun
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
    assert stuck.wait(PATIENCE)
    worker.stop.ask()
    assert not loop.close()  # it is at the job still, and nobody waits for it
    assert wait_for(sessions, "queued").attempt == 0


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


def test_a_job_that_comes_to_no_step_long_after_its_time_fails_and_ends_the_process(
    tiny_workflow, worker, sessions, stuck, clock, process_ended
):
    approved(tiny_workflow, PAIRS[:1])
    worker = replace(worker, job_seconds=3600)
    threading.Thread(target=run_waiting, args=(worker,), daemon=True, name="work").start()
    assert stuck.wait(PATIENCE)
    clock.ahead += 4000
    assert "MELO_JOB_SECONDS=3600" in wait_for(sessions, "failed").error
    assert process_ended.wait(PATIENCE)


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
        assert process_ended.wait(PATIENCE)
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
        assert process_ended.wait(PATIENCE)
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
