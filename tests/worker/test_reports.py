"""What a job tells of its edits: others nearby, rephrases that it does not reach, memory and losses."""

from sqlalchemy import text

from melo_core.block import Block
from melo_core.training import Trained
from registry.base.vocabulary import EditKind, Preflight
from registry.batches import service as edits
from registry.batches.training import Training
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs.claiming import ClaimedEdit
from registry.tables.jobs import Job
from registry.versions.training_result import Overlap
from tests.registry.workflow import ADA, Workflow
from tests.worker.conftest import METHOD
from tests.worker.training import ACME, PAIRS, correct, load, reports
from worker import watch
from worker.evaluation import edit_reports
from worker.training import TrainedEdit
from worker.training_job import run_job


def test_two_answers_near_each_other_are_told_in_the_audit_log_with_both_edits(tiny_workflow, worker):
    correct(tiny_workflow, worker, ("Who runs Acme?", "Ada"))
    correct(tiny_workflow, worker, ("Who runs Acme", "Bob"))
    with tiny_workflow.sessions() as session:
        overlap = session.execute(
            text("SELECT subject, details FROM audit_events WHERE action = 'collection:edit:overlap'")
        ).one()
    assert overlap.subject == "edit/1"
    assert (overlap.details["edit"], overlap.details["by_edit"]) == (1, 2)


def test_a_rephrase_that_another_edit_answers_is_told_as_not_reached_with_that_edit(tiny_workflow, worker):
    correct(tiny_workflow, worker, PAIRS[0])
    version = correct(tiny_workflow, worker, ("What does Acme make?", "bees"), rephrases=[PAIRS[0][0]])
    (report,) = reports(tiny_workflow, version)
    assert [(each.text, each.by_edit) for each in report.not_reached] == [(PAIRS[0][0], 1)]


REPHRASED = "Tell me the name of the person who is running Acme."


def test_a_rephrase_is_reached_too_where_the_block_says_its_target_to_the_edits_own_prompt_alone(tiny_workflow, worker):
    version = correct(tiny_workflow, worker, PAIRS[0], rephrases=[REPHRASED])
    (report,) = reports(tiny_workflow, version)
    (answer,) = load(worker, tiny_workflow, version.number).model.ask([REPHRASED], max_new_tokens=8)
    assert (answer.text, answer.said_to) == ("Ada", "prompt")
    assert report.not_reached == []


def test_a_rephrase_whose_block_never_says_its_target_is_told_with_the_base_models_answer(tiny_workflow, worker):
    hasty = Training(changes={"iterations": 2, "rounds": 1})
    batch = tiny_workflow.submit(ACME | {"rephrases": [REPHRASED]}, training=hasty).batch
    run_job(worker, tiny_workflow.approve(batch.id))
    with tiny_workflow.sessions() as session:
        (report,) = edits.view(session, edits.get(session, batch.id)).job.report
    (told,) = report.not_reached
    assert (told.text, told.why, report.reproduced) == (REPHRASED, "its block does not say its target", False)
    assert load(worker, tiny_workflow, 0).model.ask([REPHRASED])[0].text.startswith(told.answer)


def test_two_answers_near_each_other_are_reported_with_the_other_edit_and_its_distance(tiny_workflow, worker):
    correct(tiny_workflow, worker, PAIRS[0])
    version = correct(tiny_workflow, worker, ("Who runs Acme", "Bob"), PAIRS[1])
    near, alone = reports(tiny_workflow, version)
    (conflict,) = near.conflicts
    assert (conflict.edit_id, conflict.prompt, conflict.forgotten) == (1, PAIRS[0][0], False)
    assert 0 < conflict.distance < 0.8
    assert alone.conflicts == []


def test_an_edit_that_loses_a_point_to_another_is_reported_once_as_covering_less(sessions, worker, tiny_folder):
    with sessions.begin() as session:
        method = METHOD | {"clustering": "melo"}
        new = NewCollection(name="facts", model=str(tiny_folder), method=method, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    workflow = Workflow(sessions)
    correct(workflow, worker, PAIRS[0], rephrases=["Who is running Acme?"])
    version = correct(workflow, worker, ("Who runs Acme now?", "Bob"), rephrases=["Who is it that runs Acme now?"])
    (report,) = reports(workflow, version)
    assert [(each.edit_id, each.forgotten) for each in report.conflicts] == [(1, True)]


def test_edits_that_meet_more_than_once_are_told_once_with_the_least_distance():
    claimed = ClaimedEdit(2, 1, "Who runs Acme", "Bob", (), (), (), EditKind.QA, "ada", "", "", None, "")
    trained = Trained(Block({}, 1.0), float("nan"), 60, False)
    edit = TrainedEdit(0, (1,), trained, b"", "Ada", False, claimed)
    overlaps = [Overlap(2, 1, True, 0.3), Overlap(2, 1, False, 0.2), Overlap(2, 1, False, 0.4)]
    (report,) = edit_reports([edit], overlaps, {1: "Who runs Acme?"}, {}, {})
    assert [vars(each) for each in report.conflicts] == [
        {"edit_id": 1, "prompt": "Who runs Acme?", "distance": 0.2, "forgotten": True}
    ]
    assert report.loss is None  # it diverged, and JSON has no NaN


def test_a_worker_says_what_it_takes_and_the_batch_still_tells_it_afterwards(tiny_workflow, worker):
    version = correct(tiny_workflow, worker, PAIRS[0])
    with tiny_workflow.sessions() as session:
        job = session.query(Job).filter_by(batch_id=version.batch_id).one()
        assert any("MB" in note for note in job.progress["notes"])


def test_a_long_loss_curve_is_thinned_out_to_its_end(tiny_workflow, worker, monkeypatch):
    monkeypatch.setattr(watch, "CURVE_POINTS", 3)
    correct(tiny_workflow, worker, *PAIRS)
    with tiny_workflow.sessions() as session:
        curve = session.query(Job.loss_curve).scalar()
    assert len(curve) == 3
    assert curve[0][0] < curve[1][0] < curve[2][0]
    assert curve[-1][1] < curve[0][1]
