"""Jobs: one worker at a time holds one, whatever happens to the others."""

import threading

import pytest
from sqlalchemy import text

from registry.base.errors import LeaseLost
from registry.batches import service as edits
from registry.batches.training import Training
from registry.jobs import repository, service
from registry.jobs.hints import hint
from registry.jobs.schemas import ChangedAnswer, EditReport, Progress
from tests.registry.desk import trained

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


@pytest.fixture
def job(desk):
    return desk.approve(desk.submit(PARIS).batch.id)


def state(desk, table, row_id):
    with desk.sessions() as session:
        return session.execute(text(f"SELECT state FROM {table} WHERE id = :id"), {"id": row_id}).scalar()


def expire(desk, job_id):
    with desk.sessions.begin() as session:
        session.execute(text(f"UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = {job_id}"))


def test_a_claim_carries_everything_to_train_with(desk, job):
    claim = desk.claim(job)
    assert (claim.collection, claim.window, claim.settings["rank"], claim.attempt) == ("facts", 256, 4, 1)
    assert [(edit.prompt, edit.target, edit.position) for edit in claim.edits] == [(*PARIS.values(), 1)]
    assert state(desk, "batches", claim.batch_id) == "training"


def test_only_one_of_many_workers_gets_the_job(desk, job):
    claims = []
    threads = [threading.Thread(target=lambda n=n: claims.append(desk.claim(job, f"w{n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 1


def test_a_job_is_free_again_when_its_lease_has_run_out(desk, job):
    first = desk.claim(job, "w1")
    assert desk.claim(job, "w2") is None
    expire(desk, job)
    second = desk.claim(job, "w2")
    assert (second.attempt, second.token != first.token) == (2, True)


def test_a_heartbeat_keeps_the_lease_and_shows_progress(desk, job):
    claim = desk.claim(job)
    expire(desk, job)
    with desk.sessions.begin() as session:
        assert service.heartbeat(session, claim, Progress(stage="train", loss=0.5))  # nobody else has taken it yet
    assert desk.claim(job, "w2") is None
    with desk.sessions() as session:
        shown = edits.view(session, edits.get(session, claim.batch_id))
    assert shown.job.progress == Progress(stage="train", loss=0.5)


def test_what_a_job_says_of_its_edits_is_kept_and_read_with_the_batch(desk, job):
    said = ChangedAnswer(prompt="Where is Nice?", before="France\x00", after="Paris", by_edit=1)
    report = EditReport(
        edit_id=1, loss=None, iterations=60, reached=False, reproduced=False, answer="\x00", unchanged_changed=[said]
    )
    claim = desk.claim(job)
    with desk.sessions.begin() as session:
        service.write_report(service.hold(session, claim), [report], Progress(notes=["64 MB are free"]))
    desk.finish(claim)
    with desk.sessions() as session:
        shown = edits.view(session, edits.get(session, claim.batch_id)).job
    assert shown.report == [report]
    assert (report.answer, said.before) == ("\ufffd", "France\ufffd")
    assert shown.progress == Progress(notes=["64 MB are free"])


def test_only_the_holder_of_the_lease_can_say_something_of_the_edits(desk, job):
    late = desk.claim(job, "w1")
    expire(desk, job)
    desk.claim(job, "w2")
    with pytest.raises(LeaseLost), desk.sessions.begin() as session:
        service.write_report(service.hold(session, late), [])


def test_a_late_finisher_changes_nothing(desk, job, engine):
    late = desk.claim(job, "w1")
    result = trained(late, desk.content(0))
    expire(desk, job)
    current = desk.claim(job, "w2")
    with desk.sessions.begin() as session:
        assert not service.heartbeat(session, late, Progress())
    with pytest.raises(LeaseLost):
        desk.finish(late, result)
    with pytest.raises(LeaseLost), desk.sessions.begin() as session:
        service.fail(session, late, "out of memory")
    with engine.connect() as connection:
        for table in ("blocks", "points", "clusters", "versions", "calibrations"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
    assert desk.finish(current).number == 1
    with pytest.raises(LeaseLost):
        desk.finish(late, result)
    assert desk.verify().ok


def test_a_failed_job_keeps_its_reason_and_its_batch_can_be_approved_again(desk, job):
    claim = desk.claim(job)
    with desk.sessions.begin() as session:
        service.fail(session, claim, "out of memory\x00")
    assert (state(desk, "jobs", job), state(desk, "batches", claim.batch_id)) == ("failed", "failed")
    again = desk.approve(claim.batch_id)
    assert again != job
    assert desk.finish(desk.claim(again)).number == 1
    assert desk.verify().ok


def test_a_job_over_which_five_workers_were_lost_is_given_up(desk, job, engine):
    for _ in range(7):
        claim = desk.claim(job)
        with desk.sessions.begin() as session:
            service.give_back(session, claim)  # no worker was lost
    for attempt in range(1, 6):
        assert desk.claim(job, f"w{attempt}").attempt == attempt
        expire(desk, job)
    assert desk.claim(job, "w6") is None
    assert (state(desk, "jobs", job), state(desk, "batches", claim.batch_id)) == ("failed", "failed")
    with engine.connect() as connection:
        assert (
            connection.exec_driver_sql("SELECT error FROM jobs").scalar()
            == "5 attempts failed or were lost with their workers"
        )
    assert desk.claim(job, "w6") is None
    assert desk.finish(desk.claim(desk.approve(claim.batch_id))).number == 1
    assert desk.verify().ok


def test_a_waiting_job_says_that_no_worker_is_running(desk, job):
    def said():
        with desk.sessions() as session:
            return hint(session, repository.latest_of_batch(session, 1))

    assert "No worker is running" in said()
    with desk.sessions.begin() as session:
        service.worker_seen(session, "w1", "cpu")
    assert "waits for a worker" in said()
    with desk.sessions.begin() as session:
        session.execute(text("UPDATE worker_heartbeats SET seen_at = now() - interval '1 hour'"))
    assert "No worker is running" in said()
    desk.claim(job)
    with desk.sessions.begin() as session:
        service.worker_seen(session, "w1", "cpu")
    assert said() == ""


def test_a_job_keeps_the_seed_that_its_settings_have(desk):
    one = desk.claim(desk.approve(desk.submit(PARIS).batch.id))
    assert (one.seed, one.settings["seed"]) == (0, 0)
    desk.finish(one)
    desk.rollback(0)
    two = desk.claim(desk.approve(desk.submit(PARIS, training=Training(changes={"seed": 7})).batch.id))
    assert (two.seed, two.settings["seed"]) == (7, 7)
