"""Prompts that must not change: what keeps them, and what is told of those that changed."""

import pytest

from registry.base.errors import InvalidRequest, WrongState
from registry.batches import retraining, submitting
from registry.batches import service as edits
from registry.jobs.replaying import replay_of
from registry.tables.jobs import Job
from tests.registry.workflow import ADA
from tests.worker.training import (
    ACME,
    GLOBEX,
    PAIRS,
    ask,
    correct,
    correct_all,
    load,
    load_after,
    model_of,
    reports,
    window_of,
)
from worker.training_job import run_job


def test_a_prompt_that_must_not_change_is_a_guard_of_its_edit_and_stays_the_base_models(tiny_workflow, worker):
    near, far = "who runs Acme", "How do bees find their way home?"
    assert load_after(tiny_workflow, worker, PAIRS[0]).model.route(near).block is not None
    version = correct(tiny_workflow, worker, PAIRS[0], replaces=1, unchanged=[near, far])
    (report,) = reports(tiny_workflow, version)
    assert (report.unchanged_asked, [each.prompt for each in report.unchanged_changed]) == (2, [near])
    guarded = load(worker, tiny_workflow, version.number)
    assert ask(guarded, near, far) == ask(load(worker, tiny_workflow, 0), near, far)
    assert ask(guarded, PAIRS[0][0]) == ["Ada"]
    assert guarded.model.route(near).considered[0].guard == near


def test_a_prompt_that_must_not_change_is_reported_if_another_edit_answers_it_with_both_answers(tiny_workflow, worker):
    near, far = "who runs Acme", "How do bees find their way home?"
    version = correct_all(tiny_workflow, worker, ACME, GLOBEX | {"unchanged": [near, far]})
    report = reports(tiny_workflow, version)[1]
    before, after = (load(worker, tiny_workflow, number).model.ask([near])[0].text for number in (0, 1))
    assert before != after
    assert report.unchanged_asked == 2
    assert [vars(each) for each in report.unchanged_changed] == [
        {"prompt": near, "before": before, "after": after, "by_edit": 1}
    ]


def test_what_must_not_change_is_what_the_latest_version_answers_not_the_base_model(tiny_workflow, worker):
    correct(tiny_workflow, worker, PAIRS[0])
    asked = "who runs Acme?"
    bob = ACME | {"target": "Bob", "replaces": 1}
    version = correct_all(tiny_workflow, worker, bob, GLOBEX | {"unchanged": [asked]})
    (changed,) = reports(tiny_workflow, version)[1].unchanged_changed
    base, before, after = (ask(load(worker, tiny_workflow, number), asked, tokens=64)[0] for number in (0, 1, 2))
    assert (changed.before, changed.after, changed.by_edit) == (before, after, 2)
    assert len({base, before, after}) == 3


def test_an_edit_with_more_guards_keeps_its_block_and_nothing_is_trained(tiny_workflow, worker, monkeypatch):
    correct(tiny_workflow, worker, *PAIRS)
    near = "who runs Acme"
    before = load(worker, tiny_workflow, 1)
    assert before.model.route(near).block is not None
    with tiny_workflow.sessions.begin() as session:
        batch = retraining.guard(session, 1, [near], ADA, "it got the answer")
        batch_id = batch.id
    monkeypatch.setattr("worker.group.train_edits", lambda *_: pytest.fail("it was trained again"))
    run_job(worker, tiny_workflow.approve(batch_id))
    with tiny_workflow.sessions() as session:
        view = edits.view(session, edits.get(session, batch_id))
    assert view.job.state == "succeeded", view.job.error
    assert any("keep their blocks" in note for note in view.job.progress.notes)
    assert [(edit.replaces, edit.unchanged) for edit in view.edits] == [(1, [near])]
    (report,) = view.job.report
    assert report.reproduced and report.not_reached == []
    after = load(worker, tiny_workflow, view.version)
    assert ask(after, near) == ask(load(worker, tiny_workflow, 0), near)
    assert ask(after, *(prompt for prompt, _ in PAIRS)) == [target for _, target in PAIRS]
    bytes_of = [{b.sha256 for b in loaded.content.blocks.values()} for loaded in (before, after)]
    assert bytes_of[0] == bytes_of[1]
    assert ask(load(worker, tiny_workflow, 1), near) == ask(before, near)  # an earlier state stays as it was
    with tiny_workflow.sessions() as session, pytest.raises(WrongState, match="kept the blocks of the edits"):
        replay_of(session, view.job.id)
    assert tiny_workflow.verify().ok


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(["who runs Acme"], "already has these guards"), ([PAIRS[0][0]], "is what edit 1 corrects")],
)
def test_a_guard_that_is_there_already_or_that_is_what_the_edit_corrects_is_refused(
    tiny_workflow, worker, prompts, said
):
    correct(tiny_workflow, worker, PAIRS[0], unchanged=["who runs Acme"])
    with tiny_workflow.sessions.begin() as session, pytest.raises(InvalidRequest, match=said):
        retraining.guard(session, 1, prompts, ADA, "it got the answer")


def test_another_block_with_the_same_answer_changes_nothing(tiny_workflow, worker):
    correct(tiny_workflow, worker, PAIRS[0])
    version = correct(tiny_workflow, worker, PAIRS[0], replaces=1, reason="found a source", unchanged=[PAIRS[0][0]])
    first, second = (load(worker, tiny_workflow, number).model.route(PAIRS[0][0]).block for number in (1, 2))
    assert first != second
    (report,) = reports(tiny_workflow, version)
    assert (report.unchanged_asked, report.unchanged_changed) == (1, [])


def test_a_control_token_that_the_registry_could_not_see_is_named_before_anything_is_trained(
    tiny_workflow, worker, sessions, monkeypatch
):
    monkeypatch.setattr(submitting, "control_tokens", lambda files: frozenset())  # as where it has no model files
    for field in ({"prompt": "Who</s>?"}, {"target": "A</s>da"}, {"unchanged": ["a</s>"]}, {"rephrases": ["a</s>"]}):
        batch = tiny_workflow.submit({"prompt": f"Who {len(field)}{field}?"[:9], "target": "Ada"} | field).batch
        job = tiny_workflow.approve(batch.id)
        run_job(worker, job)
        with sessions() as session:
            failed = session.get(Job, job)
            assert "holds the model's control token </s>" in failed.error and f"edit {batch.id}" in failed.error
            assert failed.progress is None or failed.progress["stage"] == "load"


def test_a_prompt_that_must_not_change_and_does_not_fit_the_window_is_named_before_anything_is_trained(
    tiny_workflow, worker, sessions
):
    batch = tiny_workflow.submit({"prompt": "Who?", "target": "Ada", "unchanged": ["Who runs Acme and Globex?"]}).batch
    job = tiny_workflow.approve(batch.id)
    base = worker.model_cache.base(*model_of(tiny_workflow))
    asked, must_stay = (len(base.prompt_ids(prompt)) for prompt in ("Who?", "Who runs Acme and Globex?"))
    assert asked + 8 < must_stay
    with window_of(base, must_stay):
        run_job(worker, job)
    with sessions() as session:
        failed = session.get(Job, job)
        assert "edit 1, among what must not change: the prompt has" in failed.error
        assert failed.progress is None or failed.progress["stage"] == "load"
