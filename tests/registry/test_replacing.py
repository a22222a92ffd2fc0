"""What becomes of contradictions: edits that replace others, and those that cannot."""

import pytest

from registry.base.errors import InvalidEdits, InvalidResult
from registry.batches import deciding
from registry.edits import repository
from registry.jobs import service as queue
from tests.registry.submissions import PARIS, count, refused
from tests.registry.workflow import BEN


def test_a_contradiction_with_an_active_edit_shows_both_and_the_way_to_replace_it(workflow, engine):
    workflow.correct((PARIS["prompt"], "Paris"))
    active = workflow.active()[PARIS["prompt"]]
    (problem,) = refused(workflow, {**PARIS, "target": "Lyon"})
    assert (problem.code, problem.other_edit_id, problem.target, problem.other_target) == (
        "contradiction", active, "Lyon", "Paris",
    )  # fmt: skip
    assert f"replaces={active}" in problem.remedy
    assert count(engine, "edits") == 1
    (problem,) = refused(workflow, PARIS)
    assert problem.code == "duplicate"


@pytest.mark.parametrize("how", ["replaces", "on_conflict"])
def test_a_replacement_takes_the_place_of_the_edit_it_contradicts(workflow, how):
    workflow.correct((PARIS["prompt"], "Paris"))
    old = workflow.active()[PARIS["prompt"]]
    record = {**PARIS, "target": "Lyon"}
    if how == "replaces":
        report = workflow.submit({**record, "replaces": old})
    else:
        report = workflow.submit(record, on_conflict="replace")
    workflow.finish(workflow.claim(workflow.approve(report.batch.id)))
    (edit,) = workflow.content(2).edits.values()
    assert edit.target == "Lyon"
    assert [edit.id for edit in workflow.content(1).edits.values()] == [old]
    assert len(workflow.content(2).clusters) == 1


def test_on_conflict_replace_leaves_an_edit_alone_whose_prompt_differs_in_form_or_kind(workflow):
    texts = ["What is 22?", "What is polish?", "if x:\n  y()"]
    others = ["What is 2²?", "What is Polish?", "if x:\n    y()"]
    workflow.correct(*((text, "one") for text in texts))
    asked = [{"prompt": text, "target": "other"} for text in others]
    asked += [{"prompt": text, "target": "third", "kind": "completion"} for text in texts]
    report = workflow.submit(*asked, on_conflict="replace")
    workflow.finish(workflow.claim(workflow.approve(report.batch.id)))
    said = sorted((edit.prompt, edit.target) for edit in workflow.content(2).edits.values())
    assert said == sorted(
        [*((t, "one") for t in texts), *((t, "other") for t in others), *((t, "third") for t in texts)]
    )


def test_skipping_conflicts_stores_the_records_without_any(workflow):
    workflow.correct((PARIS["prompt"], "Paris"))
    report = workflow.submit(PARIS, {"prompt": "And of Spain?", "target": "Madrid"}, on_conflict="skip")
    assert report.accepted == 1
    assert [problem.code for problem in report.skipped] == ["duplicate"]
    assert workflow.submit(PARIS, on_conflict="skip").batch is None
    assert refused(workflow, {"prompt": "", "target": "x"}, on_conflict="skip")[0].code == "malformed"


def approval_refused(workflow, batch):
    with pytest.raises(InvalidEdits) as caught:
        workflow.approve(batch.id)
    (problem,) = caught.value.problems
    return problem.code, problem.other_edit_id


def test_an_edit_that_was_replaced_while_it_waited_cannot_be_approved(workflow):
    first = workflow.submit(PARIS).batch
    second = workflow.submit({"prompt": "France's capital?", "target": "Lyon", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(second.id))
    assert approval_refused(workflow, first) == ("replaced", 2)
    workflow.finish(claim)
    assert approval_refused(workflow, first) == ("replaced", 2)


def test_an_edit_is_replaced_by_one_batch_and_again_only_where_that_was_undone(workflow):
    workflow.correct((PARIS["prompt"], "Paris"))
    first = workflow.submit({"prompt": "France's capital?", "target": "Lyon", "replaces": 1}).batch
    second = workflow.submit({"prompt": "The capital of France?", "target": "Nice", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(first.id))
    assert approval_refused(workflow, second) == ("replaces-nothing", 1)
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "out of memory")
    workflow.finish(workflow.claim(workflow.approve(first.id)))
    assert approval_refused(workflow, second) == ("replaces-nothing", 1)
    workflow.rollback(1)
    workflow.finish(workflow.claim(workflow.approve(second.id)))
    assert workflow.active() == {"The capital of France?": 3}


def test_a_batch_whose_edit_was_retired_before_its_replacement_is_not_applied(workflow):
    workflow.correct((PARIS["prompt"], "Paris"))
    batch = workflow.submit({"prompt": "France's capital?", "target": "Lyon", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(batch.id))
    workflow.retire(1)
    with pytest.raises(InvalidResult, match=r"replace edits \[1\]"):
        workflow.finish(claim)
    assert workflow.active() == {}
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "refused")
    assert approval_refused(workflow, batch) == ("replaces-nothing", 1)


def test_an_edit_that_is_being_trained_is_replaced_once_it_acts(workflow):
    first = workflow.submit(PARIS).batch
    second = workflow.submit({**PARIS, "target": "Lyon", "replaces": 1}).batch
    claim = workflow.claim(workflow.approve(first.id))
    assert approval_refused(workflow, second) == ("replaces-nothing", 1)
    workflow.finish(claim)
    workflow.finish(workflow.claim(workflow.approve(second.id)))
    assert workflow.active() == {PARIS["prompt"]: 2}


def test_a_contradiction_with_a_waiting_edit_says_which_batch_to_decide_on(workflow):
    waiting = workflow.submit(PARIS).batch
    (problem,) = refused(workflow, {**PARIS, "target": "Lyon"}, on_conflict="replace")
    assert f"batch {waiting.id}" in problem.remedy
    with workflow.sessions.begin() as session:
        deciding.reject(session, waiting.id, BEN, "wrong")
    assert workflow.submit({**PARIS, "target": "Lyon"}).accepted == 1


def test_replacing_what_does_not_stand_is_refused(workflow):
    (problem,) = refused(workflow, {**PARIS, "replaces": 99})
    assert problem.code == "replaces-nothing"


def test_an_approval_looks_again_for_contradictions(workflow):
    # Both waited; the second said that it replaces the first, and was decided on first.
    first = workflow.submit(PARIS).batch
    with workflow.open() as (session, _):
        (edit,) = repository.of_batch(session, first.id)
    second = workflow.submit({**PARIS, "target": "Lyon", "replaces": edit.id}).batch
    workflow.finish(workflow.claim(workflow.approve(second.id)))
    with pytest.raises(InvalidEdits) as caught:
        workflow.approve(first.id)
    assert caught.value.problems[0].other_target == "Lyon"
