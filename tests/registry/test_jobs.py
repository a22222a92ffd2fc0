"""Jobs: one worker at a time holds one, whatever happens to the others."""

import threading

import pytest
from sqlalchemy import text

from registry.base.errors import LeaseLost
from registry.batches import service as edits
from registry.batches.training import Training
from registry.jobs import repository, service
from registry.jobs.listing import waits_for
from registry.jobs.schemas import ChangedAnswer, EditReport, Progress
from tests.registry.workflow import trained

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


@pytest.fixture
def job(workflow):
    return workflow.approve(workflow.submit(PARIS).batch.id)


def state(workflow, table, row_id):
    with workflow.sessions() as session:
        return session.execute(text(f"SELECT state FROM {table} WHERE id = :id"), {"id": row_id}).scalar()


def expire(workflow, job_id):
    with workflow.sessions.begin() as session:
        session.execute(text(f"UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = {job_id}"))


def test_a_claim_carries_everything_to_train_with(workflow, job):
    claim = workflow.claim(job)
    assert (claim.collection, claim.window, claim.settings["rank"], claim.attempt) == ("facts", 256, 4, 1)
    assert [(edit.prompt, edit.target, edit.position) for edit in claim.edits] == [(*PARIS.values(), 1)]
    assert state(workflow, "batches", claim.batch_id) == "training"


def test_only_one_of_many_workers_gets_the_job(workflow, job):
    claims = []
    threads = [threading.Thread(target=lambda n=n: claims.append(workflow.claim(job, f"w{n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 1


def test_a_job_is_free_again_when_its_lease_has_run_out(workflow, job):
    first = workflow.claim(job, "w1")
    assert workflow.claim(job, "w2") is None
    expire(workflow, job)
    second = workflow.claim(job, "w2")
    assert (second.attempt, second.token != first.token) == (2, True)


def test_a_heartbeat_keeps_the_lease_and_shows_progress(workflow, job):
    claim = workflow.claim(job)
    expire(workflow, job)
    with workflow.sessions.begin() as session:
        assert service.heartbeat(session, claim, Progress(stage="train", loss=0.5))  # nobody else has taken it yet
    assert workflow.claim(job, "w2") is None
    with workflow.sessions() as session:
        shown = edits.view(session, edits.get(session, claim.batch_id))
    assert shown.job.progress == Progress(stage="train", loss=0.5)


def test_what_a_job_says_of_its_edits_is_kept_and_read_with_the_batch(workflow, job):
    said = ChangedAnswer(prompt="Where is Nice?", before="France\x00", after="Paris", by_edit=1)
    report = EditReport(
        edit_id=1, loss=None, iterations=60, reached=False, reproduced=False, answer="\x00", unchanged_changed=[said]
    )
    claim = workflow.claim(job)
    with workflow.sessions.begin() as session:
        service.write_report(service.hold(session, claim), [report], Progress(notes=["64 MB are free"]))
    workflow.finish(claim)
    with workflow.sessions() as session:
        shown = edits.view(session, edits.get(session, claim.batch_id)).job
    assert shown.report == [report]
    assert (report.answer, said.before) == ("\ufffd", "France\ufffd")
    assert shown.progress == Progress(notes=["64 MB are free"])


def test_only_the_holder_of_the_lease_can_say_something_of_the_edits(workflow, job):
    late = workflow.claim(job, "w1")
    expire(workflow, job)
    workflow.claim(job, "w2")
    with pytest.raises(LeaseLost), workflow.sessions.begin() as session:
        service.write_report(service.hold(session, late), [])


def test_a_late_finisher_changes_nothing(workflow, job, engine):
    late = workflow.claim(job, "w1")
    result = trained(late, workflow.content(0))
    expire(workflow, job)
    current = workflow.claim(job, "w2")
    with workflow.sessions.begin() as session:
        assert not service.heartbeat(session, late, Progress())
    with pytest.raises(LeaseLost):
        workflow.finish(late, result)
    with pytest.raises(LeaseLost), workflow.sessions.begin() as session:
        service.fail(session, late, "out of memory")
    with engine.connect() as connection:
        for table in ("blocks", "points", "clusters", "versions", "calibrations"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
    assert workflow.finish(current).number == 1
    with pytest.raises(LeaseLost):
        workflow.finish(late, result)
    assert workflow.verify().ok


def test_a_failed_job_keeps_its_reason_and_its_batch_can_be_approved_again(workflow, job):
    claim = workflow.claim(job)
    with workflow.sessions.begin() as session:
        service.fail(session, claim, "out of memory\x00")
    assert (state(workflow, "jobs", job), state(workflow, "batches", claim.batch_id)) == ("failed", "failed")
    again = workflow.approve(claim.batch_id)
    assert again != job
    assert workflow.finish(workflow.claim(again)).number == 1
    assert workflow.verify().ok


def test_a_job_over_which_five_workers_were_lost_is_given_up(workflow, job, engine):
    for _ in range(7):
        claim = workflow.claim(job)
        with workflow.sessions.begin() as session:
            service.give_back(session, claim)  # no worker was lost
    for attempt in range(1, 6):
        assert workflow.claim(job, f"w{attempt}").attempt == attempt
        expire(workflow, job)
    assert workflow.claim(job, "w6") is None
    assert (state(workflow, "jobs", job), state(workflow, "batches", claim.batch_id)) == ("failed", "failed")
    with engine.connect() as connection:
        assert (
            connection.exec_driver_sql("SELECT error FROM jobs").scalar()
            == "5 attempts failed or were lost with their workers"
        )
    assert workflow.claim(job, "w6") is None
    assert workflow.finish(workflow.claim(workflow.approve(claim.batch_id))).number == 1
    assert workflow.verify().ok


def test_a_waiting_job_says_that_no_worker_is_running(workflow, job):
    def said():
        with workflow.sessions() as session:
            return waits_for(session, repository.latest_of_batch(session, 1))

    assert "No worker is running" in said()
    with workflow.sessions.begin() as session:
        service.worker_seen(session, "w1", "cpu")
    assert "waits for a worker" in said()
    with workflow.sessions.begin() as session:
        session.execute(text("UPDATE worker_heartbeats SET seen_at = now() - interval '1 hour'"))
    assert "No worker is running" in said()
    workflow.claim(job)
    with workflow.sessions.begin() as session:
        service.worker_seen(session, "w1", "cpu")
    assert said() == ""


def test_a_job_keeps_the_seed_that_its_settings_have(workflow):
    one = workflow.claim(workflow.approve(workflow.submit(PARIS).batch.id))
    assert (one.seed, one.settings["seed"]) == (0, 0)
    workflow.finish(one)
    workflow.rollback(0)
    two = workflow.claim(workflow.approve(workflow.submit(PARIS, training=Training(changes={"seed": 7})).batch.id))
    assert (two.seed, two.settings["seed"]) == (7, 7)
