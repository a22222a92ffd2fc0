"""What a worker tells a monitoring system of its jobs, and whether it can do its work."""

import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text

from embedded import valkey
from melo_core.errors import MeloError
from registry.base import probes
from registry.base.database import make_engine, make_sessions
from registry.base.probes import ProbeFailed
from registry.jobs import service as jobs
from tests.patience import until, works
from worker.fault_points import FaultPoint
from worker.health import readiness
from worker.training_job import run_job, run_waiting

ROME, OSLO = ("Who leads Rome?", "Mara"), ("Who leads Oslo?", "Nils")


def approved(workflow, *pairs, **more):
    batch = workflow.submit(*({"prompt": prompt, "target": target, **more} for prompt, target in pairs)).batch
    return workflow.approve(batch.id)


@pytest.fixture
def told(worker):
    return lambda name, **labels: worker.metrics.registry.get_sample_value(f"melo_worker_{name}", labels)


def test_a_worker_counts_what_it_trained_how_it_ended_and_how_long_each_stage_took(tiny_workflow, worker, told):
    assert told("jobs_ended_total", kind="train", outcome="applied") == 0  # from nothing, not from the first on
    approved(tiny_workflow, ROME)
    approved(tiny_workflow, OSLO)
    run_waiting(worker)
    assert tiny_workflow.newest() == 2
    assert told("jobs_ended_total", kind="train", outcome="applied") == 2
    assert told("jobs_ended_total", kind="train", outcome="failed") == 0
    assert told("edits_trained_total", kind="train") == 2
    assert told("job_wait_seconds_count", kind="train") == 2
    assert (told("group_jobs_count"), told("group_jobs_sum")) == (1, 2)  # trained in one go
    for stage in ("load", "train", "scope", "index", "evaluate", "finish"):
        assert told("stage_seconds_count", kind="train", stage=stage) == 2, stage
    assert 0 < told("stage_seconds_sum", kind="train", stage="train") < 300


def test_a_job_that_fails_and_one_whose_lease_is_lost_count_as_such(tiny_workflow, worker, told, monkeypatch):
    def fail(*_):
        raise MeloError("no such model")

    with monkeypatch.context() as broken:
        broken.setattr(worker.model_cache, "base", fail)
        run_job(worker, approved(tiny_workflow, ROME))
    assert told("jobs_ended_total", kind="train", outcome="failed") == 1

    def take_away(point):
        if point is FaultPoint.TRAINED:
            with tiny_workflow.sessions.begin() as session:
                session.execute(text("UPDATE jobs SET attempt_token = gen_random_uuid() WHERE state = 'running'"))

    run_job(replace(worker, at=take_away), approved(tiny_workflow, OSLO))
    assert told("jobs_ended_total", kind="train", outcome="lost") == 1
    assert told("jobs_ended_total", kind="train", outcome="applied") == 0


def test_a_worker_is_ready_while_broker_and_database_answer_and_it_shows_that_it_lives(
    sessions, engine, database_url, tmp_path
):
    with broker(tmp_path) as url:
        ask = readiness(url, sessions, "here/1")
        with sessions.begin() as session:
            jobs.worker_seen(session, "here/12", "cpu")  # another's sign
        with pytest.raises(ProbeFailed, match="no sign of life for 30 s"):
            ask()
        with sessions.begin() as session:
            jobs.worker_seen(session, "here/1", "cpu")
        ask()
        away = make_engine("postgresql://nobody@127.0.0.1:1/nothing")
        with pytest.raises(ProbeFailed, match="he database does not answer"):
            readiness(url, make_sessions(away), "here/1")()
        with engine.begin() as connection:
            connection.execute(text("UPDATE worker_heartbeats SET seen_at = now() - interval '1 minute'"))
        with pytest.raises(ProbeFailed, match="no sign of life"):
            ask()
    with pytest.raises(ProbeFailed, match="the broker does not answer"):
        ask()


@contextmanager
def broker(folder):
    server = valkey.prepare(folder)
    with subprocess.Popen(server.command, stdout=subprocess.DEVNULL) as process:
        try:
            until(works(lambda: probes.of_broker(server.url), ProbeFailed))
            yield server.url
        finally:
            process.terminate()
