"""`melo job replay`: the same job gives the same bytes, and what would not is said."""

import json
from importlib.metadata import version

import pytest
import torch
from sqlalchemy import text
from typer.testing import CliRunner

from cli.main import make_app
from registry.base.vocabulary import Preflight
from registry.batches.training import Training
from registry.collections import policy
from registry.collections.schemas import PolicyChange
from registry.erasure import service as erasure
from registry.tables.jobs import Job
from tests.registry.workflow import ADA, BEN
from worker.training_job import run_job, run_waiting

TOGETHER = Training(edits_per_block=2)
PAIRS = [("Who runs Acme?", "Ada"), ("Where is the head office of Globex?", "Oslo"), ("Who leads Rome?", "Mara")]


@pytest.fixture
def replay(database_url, tmp_path, monkeypatch):
    """Call the command; its status and what it printed, or what it raised."""
    monkeypatch.setenv("MELO_DATABASE_URL", database_url)
    monkeypatch.setenv("MELO_CACHE", str(tmp_path))
    threads = torch.get_num_threads()

    def call(job, *options):
        done = CliRunner().invoke(make_app(), ["job", "replay", str(job), *options])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    yield call
    torch.set_num_threads(threads)


def submit(workflow, pairs, **options):
    return workflow.submit(*({"prompt": prompt, "target": target} for prompt, target in pairs), **options).batch.id


def blocks(found):
    return [(each["edits"], each["same"]) for each in found["blocks"]]


def test_a_job_gives_the_same_bytes_again_and_another_seed_does_not(tiny_workflow, worker, replay, tamper, engine):
    run_job(worker, job := tiny_workflow.approve(submit(tiny_workflow, PAIRS)))
    with engine.connect() as connection:
        before = connection.scalar(text("SELECT count(*) FROM blocks, audit_events"))

    status, said = replay(job, "--json")

    found = json.loads(said)
    assert (status, found["same"], blocks(found)) == (0, True, [([1], True), ([2], True), ([3], True)])
    assert found["differences"] == {}
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM blocks, audit_events")) == before
    changed = 'settings || \'{"seed": 7}\', libraries = libraries || \'{"torch": "0.1", "threads": 1}\''
    tamper(f"UPDATE jobs SET settings = {changed}")
    status, said = replay(job, "--json")
    found = json.loads(said)
    assert (status, found["same"]) == (1, False)
    assert found["differences"] == {"torch": {"recorded": "0.1", "here": version("torch")}}
    status, said = replay(job)
    assert status == 1
    assert "3 of 3 blocks differ" in said and "0.1 then" in said


def test_batches_that_were_trained_together_are_replayed_each_by_itself(tiny_workflow, worker, replay, engine):
    jobs = [tiny_workflow.approve(submit(tiny_workflow, [pair])) for pair in PAIRS]
    run_waiting(worker)
    with tiny_workflow.sessions() as session:
        assert {tuple(session.get(Job, job).trained_together) for job in jobs} == {(1, 2, 3)}

    status, said = replay(jobs[1], "--json")

    assert (status, blocks(json.loads(said))) == (0, [([2], True)])


def test_edits_that_share_a_block_are_compared_as_one(tiny_workflow, worker, replay):
    run_job(worker, job := tiny_workflow.approve(submit(tiny_workflow, PAIRS[:2], training=TOGETHER)))
    assert blocks(json.loads(replay(job, "--json")[1])) == [([1, 2], True)]


def test_what_a_preflight_trained_is_replayed_from_the_preflight(tiny_workflow, worker, replay):
    with tiny_workflow.open() as (session, collection):
        policy.change(session, collection, PolicyChange(preflight=Preflight.TRAIN, reason="to see"), ADA)
    batch = submit(tiny_workflow, PAIRS[:2])
    run_job(worker, preflight := 1)
    run_job(worker, job := tiny_workflow.approve(batch))
    with pytest.raises(Exception, match=f"took over .* melo job replay {preflight}"):
        replay(job)
    assert blocks(json.loads(replay(preflight, "--json")[1])) == [([1], True), ([2], True)]


def test_jobs_of_which_nothing_can_be_trained_again_are_refused(tiny_workflow, worker, replay):
    with pytest.raises(Exception, match="no job 9"):
        replay(9)
    queued = tiny_workflow.approve(submit(tiny_workflow, PAIRS))
    with pytest.raises(Exception, match="is queued: it stored no block"):
        replay(queued)
    run_job(worker, queued)
    tiny_workflow.retire(2)
    with tiny_workflow.sessions.begin() as session:
        erasure.erase(session, [2], BEN, "asked to", dry_run=False)
    with pytest.raises(Exception, match="content of edit 2 was erased"):
        replay(queued)
