"""Batches that wait for one collection: trained in one go, and applied one after another in their order."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text

from registry.base.vocabulary import Preflight
from registry.batches import cancelling
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.tables.jobs import Job
from registry.tables.versions import Version
from tests.patience import PATIENCE
from tests.registry.workflow import ADA, BEN, Workflow
from tests.worker.conftest import METHOD
from tests.worker.training import ask, load, window_of
from worker import group, training_job
from worker.fault_points import FaultPoint
from worker.training_job import run_waiting

PAIRS = [
    ("Who runs Acme?", "Ada"),
    ("Where is the head office of Globex?", "Oslo"),
    ("When was Initech founded?", "1999"),
    ("What colour is the logo of Umbrella?", "red"),
]


def approved(workflow: Workflow, *batches: list[tuple[str, str]]) -> list[int]:
    """Approve batches of prompts and targets. Returns their jobs."""
    submitted = [workflow.submit(*({"prompt": p, "target": t} for p, t in pairs)).batch for pairs in batches]
    return [workflow.approve(batch.id) for batch in submitted]


def job(sessions, job_id: int) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def states(sessions) -> list[str]:
    with sessions() as session:
        return list(session.execute(text("SELECT state FROM jobs ORDER BY id")).scalars())


def applied(sessions) -> list[int]:
    """The batches, in the order in which they were applied."""
    with sessions() as session:
        return [version.batch_id for version in session.query(Version).order_by(Version.number)]


@pytest.fixture
def trained_together(monkeypatch) -> list[list[int]]:
    """The ids of the edits of each training that happened."""
    seen, train = [], group.train_edits

    def noted(base, settings, edits, *rest):
        seen.append([edit.id for edit in edits])
        return train(base, settings, edits, *rest)

    monkeypatch.setattr(group, "train_edits", noted)
    return seen


def test_small_batches_are_trained_in_one_go_and_applied_each_with_its_own_version(
    tiny_workflow, worker, sessions, trained_together
):
    jobs = approved(tiny_workflow, PAIRS[:1], PAIRS[1:3], PAIRS[3:])
    assert run_waiting(worker) == 3
    assert trained_together == [[1, 2, 3, 4]]
    assert applied(sessions) == [1, 2, 3]
    assert ask(load(worker, tiny_workflow, 3), *(p for p, _ in PAIRS)) == [t for _, t in PAIRS]
    assert ask(load(worker, tiny_workflow, 1), PAIRS[0][0]) == ["Ada"]
    first, second, third = (job(sessions, each) for each in jobs)
    assert first.trained_together == second.trained_together == third.trained_together == [1, 2, 3, 4]
    assert [edit["edit_id"] for edit in second.report] == [2, 3]
    assert "trained together with batch 1, 3" in second.progress["notes"]
    assert second.timings["train"] == pytest.approx(2 * first.timings["train"], abs=0.01)  # shared by edits
    assert tiny_workflow.verify().ok


def test_a_block_trained_with_others_says_what_one_trained_alone_says_and_in_the_same_company_has_the_same_bytes(
    tiny_workflow, worker, sessions
):
    approved(tiny_workflow, *([pair] for pair in PAIRS))
    run_waiting(worker)
    tiny_workflow.retire(1, 2, 3, 4)
    for pair in PAIRS:
        approved(tiny_workflow, [pair])
        run_waiting(worker)
    tiny_workflow.retire(5, 6, 7, 8)
    approved(tiny_workflow, *([pair] for pair in PAIRS))
    run_waiting(worker)
    asked = [p for p, _ in PAIRS] + [f"{p} Do you know?" for p, _ in PAIRS]
    together, alone, again = (ask(load(worker, tiny_workflow, number), *asked) for number in (4, 9, 14))
    assert together == alone == again
    with sessions() as session:
        made = list(session.execute(text("SELECT sha256 FROM blocks ORDER BY id")).scalars())
    assert made[:4] == made[8:]


def test_more_edits_than_fit_one_step_are_not_trained_in_one_go(sessions, worker, tiny_folder, trained_together):
    workflow = _collection(sessions, tiny_folder, batch=2)
    approved(workflow, PAIRS[:1], PAIRS[1:2], PAIRS[2:])
    run_waiting(worker)
    assert trained_together == [[1, 2], [3, 4]]
    assert applied(sessions) == [1, 2, 3]


def test_where_edits_share_blocks_no_block_has_edits_of_two_batches(sessions, worker, tiny_folder, trained_together):
    workflow = _collection(sessions, tiny_folder, edits_per_block=2, rank=8)
    approved(workflow, PAIRS[:1], PAIRS[1:])
    run_waiting(worker)
    assert trained_together == [[1], [2, 3, 4]]


def _collection(sessions, folder, **method) -> Workflow:
    with sessions.begin() as session:
        new = NewCollection(name="facts", model=str(folder), method=METHOD | method, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    return Workflow(sessions)


def test_an_edit_that_cannot_be_trained_fails_its_own_batch_alone(tiny_workflow, worker, sessions, trained_together):
    long = "Who is it that runs " + "Acme and " * 6 + "Globex?"
    jobs = approved(tiny_workflow, PAIRS[:1], [(long, "Bob")], PAIRS[1:2])
    with tiny_workflow.open() as (_, collection):
        base = worker.model_cache.base(collection.model, collection.model_digest)
    with window_of(base, 60):
        run_waiting(worker)
    assert states(sessions) == ["succeeded", "failed", "succeeded"]
    assert "edit 2: the prompt has" in job(sessions, jobs[1]).error
    assert trained_together == [[1, 2, 3], [1], [2], [3]]
    assert job(sessions, jobs[2]).trained_together == [3]
    assert applied(sessions) == [1, 3]


def test_a_batch_that_is_cancelled_while_it_is_trained_with_others_is_left_out(tiny_workflow, worker, sessions):
    def cancelled(point: FaultPoint) -> None:
        if point is FaultPoint.TRAINED:
            with sessions.begin() as session:
                cancelling.cancel(session, 2, BEN, "the source is wrong")

    approved(tiny_workflow, PAIRS[:1], PAIRS[1:2], PAIRS[2:])
    run_waiting(replace(worker, at=cancelled))
    assert states(sessions) == ["succeeded", "cancelled", "succeeded"]
    assert applied(sessions) == [1, 3]
    assert tiny_workflow.verify().ok


def test_a_batch_that_is_cancelled_before_its_training_begins_does_not_part_the_others(
    tiny_workflow, worker, sessions, trained_together, monkeypatch
):
    watches, loaded, kept = [], [], training_job.kept

    @contextmanager
    def noted(*given):
        with kept(*given) as found:
            watches.extend(found)
            yield found

    def cancelled(point: FaultPoint) -> None:
        loaded.extend([point] if point is FaultPoint.LOADED else [])
        if point is FaultPoint.LOADED and len(loaded) == 4:
            tiny_workflow.cancel(2)
            assert watches[1].lost.wait(PATIENCE)  # its heartbeat finds out

    monkeypatch.setattr(training_job, "kept", noted)
    jobs = approved(tiny_workflow, *([pair] for pair in PAIRS))
    run_waiting(replace(worker, at=cancelled))
    assert trained_together == [[1, 3, 4]]
    assert states(sessions) == ["succeeded", "cancelled", "succeeded", "succeeded"]
    assert job(sessions, jobs[0]).progress["notes"][-1] == "trained together with batch 3, 4"


def test_a_training_together_that_failed_leaves_no_trace_in_the_jobs(tiny_workflow, worker, sessions, monkeypatch):
    train = group.train_edits

    def failing(base, settings, edits, *rest):
        trained = train(base, settings, edits, *rest)
        return trained if len(edits) == 1 else 1 / 0

    monkeypatch.setattr(group, "train_edits", failing)
    jobs = approved(tiny_workflow, PAIRS[:1], PAIRS[1:2])
    run_waiting(worker)
    assert states(sessions) == ["succeeded"] * 2
    for each in (job(sessions, number) for number in jobs):
        seconds = [point[0] for point in each.loss_curve]
        assert seconds == sorted(seconds)
        assert not any("trained together" in note for note in each.progress.get("notes", ()))


def test_what_would_have_to_wait_is_not_trained_for_nothing(
    tiny_workflow, worker, sessions, trained_together, monkeypatch
):
    noted = group.train_edits

    def failing(*given):
        noted(*given)
        raise OSError("the disk is full")

    monkeypatch.setattr(group, "train_edits", failing)
    approved(tiny_workflow, PAIRS[:1], PAIRS[1:2], PAIRS[2:3])
    run_waiting(worker)
    assert trained_together == [[1, 2, 3], [1]]
    assert states(sessions) == ["queued"] * 3


def test_what_comes_after_a_batch_that_has_to_wait_waits_too(tiny_workflow, worker, sessions):
    failures = [OSError("the disk is full")]

    def failing(point: FaultPoint) -> None:
        if point is FaultPoint.SCOPED and failures:
            raise failures.pop()

    jobs = approved(tiny_workflow, PAIRS[:1], PAIRS[1:2])
    worker = replace(worker, at=failing, retry_seconds=1)
    assert run_waiting(worker) == 2
    assert states(sessions) == ["queued", "queued"]
    assert applied(sessions) == []
    assert [job(sessions, each).attempt for each in jobs] == [1, 0]
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET not_before = now() - interval '1 second' WHERE not_before IS NOT NULL"))
    run_waiting(worker)
    assert applied(sessions) == [1, 2]
    assert tiny_workflow.verify().ok


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_and_begins_nothing(sessions, worker, tiny_folder):
    workflow = _collection(sessions, tiny_folder, batch=1)

    def told(point: FaultPoint) -> None:
        if point is FaultPoint.TRAINED:
            worker.stop.ask()

    approved(workflow, PAIRS[:1], PAIRS[1:2])
    assert run_waiting(replace(worker, at=told)) == 1
    assert states(sessions) == ["succeeded", "queued"]


def test_a_worker_for_other_models_leaves_the_job_alone(tiny_workflow, worker, sessions):
    approved(tiny_workflow, PAIRS[:1])
    assert run_waiting(replace(worker, models=frozenset({"0" * 64}))) == 0
    assert states(sessions) == ["queued"]
