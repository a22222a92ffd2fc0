"""A preflight before the decision: what it says of each edit, and the blocks that it trains ahead of it."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from registry.base.vocabulary import Preflight
from registry.batches import deciding
from registry.batches import service as edits
from registry.batches.schemas import BatchView
from registry.collections import policy
from registry.collections import service as collections
from registry.collections.schemas import NewCollection, PolicyChange
from registry.tables.jobs import Job
from tests.registry.workflow import ADA, BEN, Workflow
from tests.worker.conftest import METHOD
from tests.worker.training import PAIRS, ask, correct, load
from worker import preflight
from worker.training_job import run_job
from worker.watch import Worker

NEAR = ("Who runs Acme", "Ada"), ("Who runs Acme?!", "Bob")  # one repeats the first pair, one contradicts it


def with_preflight(workflow: Workflow, preflight: Preflight) -> None:
    with workflow.open() as (session, collection):
        policy.change(session, collection, PolicyChange(preflight=preflight, reason="to see it first"), ADA)


def submit(workflow: Workflow, *pairs: tuple[str, str], **fields: object) -> int:
    batch = workflow.submit(*({"prompt": p, "target": t} | fields for p, t in pairs)).batch
    assert batch is not None
    return batch.id


def view(workflow: Workflow, batch_id: int) -> BatchView:
    with workflow.sessions() as session:
        return edits.view(session, edits.get(session, batch_id))


def through_preflight(workflow: Workflow, worker: Worker, batch_id: int) -> BatchView:
    """Let the worker do the preflight of a submitted batch."""
    waiting = view(workflow, batch_id).preflight
    assert waiting is not None
    run_job(worker, waiting.id)
    found = view(workflow, batch_id)
    assert found.preflight.state == "succeeded", found.preflight.error
    return found


def count(workflow: Workflow, table: str) -> int:
    with workflow.sessions() as session:
        return session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


def approve(workflow: Workflow, batch_id: int, *declined: int) -> int:
    with workflow.sessions.begin() as session:
        deciding.approve(session, batch_id, BEN, "checked", declined)
    return view(workflow, batch_id).job.id


def test_a_preflight_says_what_the_model_answers_now_and_which_edits_lie_near_with_the_remedies(tiny_workflow, worker):
    correct(tiny_workflow, worker, *PAIRS)
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, *NEAR, ("When was Initech founded?", "1999"))
    newest = load(worker, tiny_workflow, 1).model

    def answer(prompt: str) -> str:
        return newest.ask([prompt], max_new_tokens=32)[0].text

    repeats, contradicts, alone = through_preflight(tiny_workflow, worker, batch).preflight.report

    assert (repeats.answer_now, repeats.answered_by) == (answer(NEAR[0][0]), 1)
    near = {each.edit_id: each for each in repeats.near}
    assert near[1].is_duplicate and not near[1].in_batch and 0 < near[1].distance < 0.8
    assert near[4].is_contradiction and near[4].in_batch
    assert not near[2].inside
    assert {each.edit_id for each in contradicts.near if each.is_contradiction} == {1, 3}
    assert any("replaces=1" in way and "--except 4" in way and "reject" in way for way in contradicts.remedies)
    assert alone.remedies == [] and alone.answered_by is None
    assert alone.answer_now == answer("When was Initech founded?")
    assert all(each.trained is None for each in (repeats, contradicts, alone))
    assert (count(tiny_workflow, "versions"), count(tiny_workflow, "blocks")) == (1, 2)
    assert tiny_workflow.verify().ok


def test_blocks_that_a_preflight_trained_are_applied_as_they_are_and_not_trained_again(
    tiny_workflow, worker, monkeypatch
):
    with_preflight(tiny_workflow, Preflight.TRAIN)
    batch = submit(tiny_workflow, *PAIRS, unchanged=["who runs Acme"])
    seen = through_preflight(tiny_workflow, worker, batch)
    assert [each.trained.reproduced for each in seen.preflight.report] == [True, True]
    assert [each.trained.unchanged_asked for each in seen.preflight.report] == [1, 1]
    assert [each.trained.unchanged_changed for each in seen.preflight.report] == [[], []]
    assert (
        count(tiny_workflow, "versions"),
        count(tiny_workflow, "activations"),
        count(tiny_workflow, "clusters"),
    ) == (0, 0, 0)
    assert (count(tiny_workflow, "blocks"), count(tiny_workflow, "points")) == (2, 2)

    job = approve(tiny_workflow, batch)
    monkeypatch.setattr("worker.group.train_edits", lambda *_: pytest.fail("it was trained again"))
    run_job(worker, job)
    assert view(tiny_workflow, batch).version == 1
    assert ask(load(worker, tiny_workflow, 1), *(p for p, _ in PAIRS)) == [t for _, t in PAIRS]
    assert set(tiny_workflow.content(1).blocks) == {1, 2}
    assert (count(tiny_workflow, "blocks"), count(tiny_workflow, "points")) == (2, 2)
    assert view(tiny_workflow, batch).job.report == [each.trained for each in seen.preflight.report]
    assert tiny_workflow.verify().ok


def test_what_was_declined_is_not_applied_and_a_block_that_it_shares_is_trained_anew(sessions, worker, tiny_folder):
    method = METHOD | {"edits_per_block": 2, "rank": 8}
    with sessions.begin() as session:
        new = NewCollection(name="facts", model=str(tiny_folder), method=method, preflight=Preflight.TRAIN)
        collections.create(session, new, ADA)
    workflow = Workflow(sessions)
    batch = submit(workflow, *PAIRS, ("When was Initech founded?", "1999"), ("Who owns Hooli?", "Gavin"))
    assert len(through_preflight(workflow, worker, batch).preflight.report) == 4
    run_job(worker, approve(workflow, batch, 1))

    content = workflow.content(1)
    assert set(content.edits) == {2, 3, 4}
    assert set(content.blocks) == {2, 3}  # the first was shared with the declined edit; the second is the preflight's
    base = ask(load(worker, workflow, 0), PAIRS[0][0])
    assert ask(load(worker, workflow, 1), *(p for p, _ in PAIRS), "Who owns Hooli?") == [*base, "Oslo", "Gavin"]
    assert workflow.verify().ok


def test_a_preflight_that_ends_after_the_rejection_leaves_nothing(tiny_workflow, worker, monkeypatch):
    with_preflight(tiny_workflow, Preflight.TRAIN)
    batch = submit(tiny_workflow, PAIRS[0])
    train = preflight.train_edits

    def rejected_meanwhile(*given):
        with tiny_workflow.sessions.begin() as session:
            deciding.reject(session, batch, BEN, "the source is wrong")
        return train(*given)

    monkeypatch.setattr(preflight, "train_edits", rejected_meanwhile)
    run_job(worker, view(tiny_workflow, batch).preflight.id)
    found = view(tiny_workflow, batch)
    assert (found.state, found.preflight.state, found.preflight.report) == ("rejected", "cancelled", None)
    assert count(tiny_workflow, "blocks") == 0
    assert tiny_workflow.verify().ok


def test_an_approval_while_the_preflight_runs_lets_it_end_and_takes_over_what_it_trains(
    tiny_workflow, worker, monkeypatch
):
    with_preflight(tiny_workflow, Preflight.TRAIN)
    batch = submit(tiny_workflow, PAIRS[0])
    train, other = preflight.train_edits, replace(worker, name="w2")

    def approved_meanwhile(*given):
        job = approve(tiny_workflow, batch)
        run_job(other, job)  # another worker gets the message at once, and leaves the job where it is
        assert view(tiny_workflow, batch).job.state == "queued"
        return train(*given)

    monkeypatch.setattr(preflight, "train_edits", approved_meanwhile)
    run_job(worker, view(tiny_workflow, batch).preflight.id)
    found = view(tiny_workflow, batch)
    assert (found.preflight.state, found.job.state) == ("succeeded", "queued")
    with tiny_workflow.sessions() as session:
        sent = session.execute(text("SELECT count(*) FROM outbox WHERE job_id = :job"), {"job": found.job.id})
        assert sent.scalar_one() == 2  # the second when the preflight ended
    run_job(other, found.job.id)
    assert set(tiny_workflow.content(1).blocks) == {1}


def test_a_preflight_that_fails_is_shown_and_hinders_no_approval(tiny_workflow, worker):
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, PAIRS[0])
    with tiny_workflow.sessions.begin() as session:
        session.execute(text("UPDATE collections SET encoder_digest = repeat('0', 64)"))
    run_job(worker, view(tiny_workflow, batch).preflight.id)
    found = view(tiny_workflow, batch)
    assert (found.state, found.preflight.state) == ("submitted", "failed")
    assert "digest" in found.preflight.error
    job = approve(tiny_workflow, batch)
    with tiny_workflow.sessions() as session:
        assert session.get(Job, job).state == "queued"
