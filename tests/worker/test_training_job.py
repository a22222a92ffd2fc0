"""A job from claim to version, and what a loader makes of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from sqlalchemy import text

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.training import Trained
from registry.audit import repository as audit
from registry.base.errors import DigestMismatch, InvalidRequest, WrongState
from registry.base.vocabulary import EditKind, Preflight
from registry.batches import retraining
from registry.batches import service as edits
from registry.batches.training import Training
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs.replaying import replay_of
from registry.jobs.schemas import EditReport
from registry.jobs.service import ClaimedEdit
from registry.tables.jobs import Job
from registry.tables.versions import Version
from registry.versions.training_result import Overlap
from tests.patience import PATIENCE
from tests.registry.workflow import ADA, Workflow
from tests.worker.conftest import METHOD
from worker import watch
from worker.evaluation import edit_reports
from worker.loader import LoadedVersion, load_version
from worker.model_cache import ModelCache
from worker.stopping import Stop
from worker.training import TrainedEdit
from worker.training_job import run_job, run_waiting
from worker.watch import Worker

PAIRS = [("Who runs Acme?", "Ada"), ("Where is the head office of Globex?", "Oslo")]


def correct(workflow: Workflow, worker: Worker, *pairs: tuple[str, str], **fields: object) -> Version:
    """Submit, approve, and let the real worker train."""
    batch = workflow.submit(*({"prompt": p, "target": t} | fields for p, t in pairs)).batch
    assert batch is not None
    run_job(worker, workflow.approve(batch.id))
    with workflow.sessions() as session:
        job = session.query(Job).filter_by(batch_id=batch.id).one()
        assert job.state == "succeeded", job.error
        return session.query(Version).filter_by(batch_id=batch.id).one()


def load(worker: Worker, workflow: Workflow, number: int, model_cache: ModelCache | None = None) -> LoadedVersion:
    with workflow.open() as (_, collection):
        collection_id = collection.id
    return load_version(worker.sessions, model_cache or worker.model_cache, collection_id, number)


def ask(loaded: LoadedVersion, *prompts: str, tokens: int = 8) -> list[str]:
    return [answer.text for answer in loaded.model.ask(prompts, max_new_tokens=tokens)]


def test_an_approved_batch_becomes_a_version_that_answers_rightly(tiny_workflow, worker):
    version = correct(tiny_workflow, worker, *PAIRS)
    loaded = load(worker, tiny_workflow, version.number)

    assert ask(loaded, *(p for p, _ in PAIRS)) == [t for _, t in PAIRS]
    answer = loaded.model.ask([PAIRS[0][0]])[0]
    assert loaded.edit_behind(answer).prompt == PAIRS[0][0]
    with tiny_workflow.sessions() as session:
        job = session.query(Job).one()
        assert {"load", "train", "scope", "index"} <= job.timings.keys()
        assert job.loss_curve
        assert [edit["reproduced"] for edit in job.report] == [True, True]


def test_another_question_is_answered_as_by_the_base_model(tiny_workflow, worker):
    correct(tiny_workflow, worker, *PAIRS)
    asked = ["How do bees find their way home?", "Name three rivers in Peru."]
    before, after = load(worker, tiny_workflow, 0), load(worker, tiny_workflow, 1)
    assert [a.token_ids for a in before.model.ask(asked)] == [a.token_ids for a in after.model.ask(asked)]


def test_a_loader_that_shares_nothing_with_the_trainer_gives_the_same_tokens(tiny_workflow, worker, tmp_path):
    correct(tiny_workflow, worker, *PAIRS)
    asked = [p for p, _ in PAIRS] + ["Who ran Acme before?"]
    here, there = load(worker, tiny_workflow, 1), load(worker, tiny_workflow, 1, ModelCache(tmp_path))
    assert [a.token_ids for a in here.model.ask(asked)] == [a.token_ids for a in there.model.ask(asked)]


def test_an_edit_that_replaces_another_answers_in_its_place_and_the_old_version_still_stands(tiny_workflow, worker):
    correct(tiny_workflow, worker, *PAIRS)
    with tiny_workflow.sessions() as session:
        old = session.execute(text("SELECT id FROM edits WHERE prompt = :p"), {"p": PAIRS[0][0]}).scalar_one()
    correct(tiny_workflow, worker, (PAIRS[0][0], "Bob"), replaces=old)
    assert ask(load(worker, tiny_workflow, 2), PAIRS[0][0], PAIRS[1][0]) == ["Bob", "Oslo"]
    assert ask(load(worker, tiny_workflow, 1), PAIRS[0][0]) == ["Ada"]


def test_a_retired_edit_no_longer_acts_in_any_later_version(tiny_workflow, worker):
    correct(tiny_workflow, worker, *PAIRS)
    with tiny_workflow.sessions() as session:
        first = session.execute(text("SELECT min(id) FROM edits")).scalar_one()
    tiny_workflow.retire(first)
    correct(tiny_workflow, worker, ("When was Initech founded?", "1999"))
    base = ask(load(worker, tiny_workflow, 0), PAIRS[0][0])
    assert ask(load(worker, tiny_workflow, 2), PAIRS[0][0]) == ask(load(worker, tiny_workflow, 3), PAIRS[0][0]) == base


def test_a_rephrase_given_with_an_edit_becomes_a_point_that_leads_to_it(tiny_workflow, worker):
    far = "Acme: name of chief executive officer, please"
    correct(tiny_workflow, worker, PAIRS[0], rephrases=[far])
    loaded = load(worker, tiny_workflow, 1)
    route = loaded.model.route(far)
    assert len(loaded.content.points) == 2
    assert route.match.distance < 1e-6
    assert route.block is not None


def test_two_answers_near_each_other_are_told_in_the_audit_log_with_both_edits(tiny_workflow, worker):
    correct(tiny_workflow, worker, ("Who runs Acme?", "Ada"))
    correct(tiny_workflow, worker, ("Who runs Acme", "Bob"))
    with tiny_workflow.sessions() as session:
        overlap = session.execute(
            text("SELECT subject, details FROM audit_events WHERE action = 'collection:edit:overlap'")
        ).one()
    assert overlap.subject == "edit/1"
    assert (overlap.details["edit"], overlap.details["by_edit"]) == (1, 2)


def reports(workflow: Workflow, version: Version) -> list[EditReport]:
    """What the API says about each edit of the version's batch."""
    with workflow.sessions() as session:
        return edits.view(session, edits.get(session, version.batch_id)).job.report


def correct_all(workflow: Workflow, worker: Worker, *edits: dict[str, object]) -> Version:
    """The same, with fields of each edit's own."""
    batch = workflow.submit(*edits).batch
    assert batch is not None
    run_job(worker, workflow.approve(batch.id))
    with workflow.sessions() as session:
        return session.query(Version).filter_by(batch_id=batch.id).one()


ACME, GLOBEX = ({"prompt": prompt, "target": target} for prompt, target in PAIRS)


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


def load_after(workflow: Workflow, worker: Worker, *pairs: tuple[str, str]) -> LoadedVersion:
    return load(worker, workflow, correct(workflow, worker, *pairs).number)


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


@contextmanager
def window_of(base: BaseModel, tokens: int) -> Iterator[None]:
    """A shorter window, for a while."""
    config = base.model.config
    config.max_position_embeddings, usual = tokens, config.max_position_embeddings
    try:
        yield
    finally:
        config.max_position_embeddings = usual


def test_another_block_with_the_same_answer_changes_nothing(tiny_workflow, worker):
    correct(tiny_workflow, worker, PAIRS[0])
    version = correct(tiny_workflow, worker, PAIRS[0], replaces=1, reason="found a source", unchanged=[PAIRS[0][0]])
    first, second = (load(worker, tiny_workflow, number).model.route(PAIRS[0][0]).block for number in (1, 2))
    assert first != second
    (report,) = reports(tiny_workflow, version)
    assert (report.unchanged_asked, report.unchanged_changed) == (1, [])


def test_a_prompt_that_must_not_change_and_does_not_fit_the_window_is_named_before_anything_is_trained(
    tiny_workflow, worker, sessions
):
    batch = tiny_workflow.submit({"prompt": "Who?", "target": "Ada", "unchanged": ["Who runs Acme and Globex?"]}).batch
    job = tiny_workflow.approve(batch.id)
    base = worker.model_cache.base(*_model(tiny_workflow))
    asked, must_stay = (len(base.prompt_ids(prompt)) for prompt in ("Who?", "Who runs Acme and Globex?"))
    assert asked + 8 < must_stay
    with window_of(base, must_stay):
        run_job(worker, job)
    with sessions() as session:
        failed = session.get(Job, job)
        assert "edit 1, among what must not change: the prompt has" in failed.error
        assert failed.progress is None or failed.progress["stage"] == "load"


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
    claimed = ClaimedEdit(2, 1, "Who runs Acme", "Bob", (), (), EditKind.QA, None, "")
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


def test_a_job_in_half_precision_is_answered_in_it_and_its_record_says_so(tiny_workflow, worker, tmp_path):
    half = replace(worker, model_cache=ModelCache(tmp_path, "bfloat16"))
    correct(tiny_workflow, half, *PAIRS)
    loaded = load(half, tiny_workflow, 1)
    assert loaded.model.base.model.dtype == torch.bfloat16
    assert ask(loaded, *(p for p, _ in PAIRS)) == [t for _, t in PAIRS]
    with tiny_workflow.sessions() as session:
        assert session.query(Job).one().libraries["dtype"] == "bfloat16"


def test_a_worker_that_is_given_unknown_numbers_to_run_in_says_which_there_are(database_url):
    environment = os.environ | {"MELO_DATABASE_URL": database_url, "MELO_DTYPE": "float8"}
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "dtype" in done.stderr
    assert "'bfloat16'" in done.stderr


def test_training_the_same_edits_again_gives_the_same_bytes(tiny_workflow, worker, sessions):
    batches = [tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch]
    run_job(worker, tiny_workflow.approve(batches[0].id))
    tiny_workflow.retire(1)
    batches.append(tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch)
    run_job(worker, tiny_workflow.approve(batches[1].id))
    with sessions() as session:
        first, second = session.execute(text("SELECT sha256 FROM blocks ORDER BY id")).scalars()
    assert first == second


def test_a_job_runs_once_however_often_its_message_comes(tiny_workflow, worker, sessions):
    batch = tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_workflow.approve(batch.id)
    for _ in range(3):
        run_job(worker, job)
    with sessions() as session:
        assert session.execute(text("SELECT count(*) FROM versions")).scalar_one() == 1
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 1


def test_a_prompt_that_does_not_fit_the_window_fails_the_batch_and_names_the_edit(tiny_workflow, worker, sessions):
    # The registry counts without the model's own code, so the worker has the last word.
    batch = tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_workflow.approve(batch.id)
    base = worker.model_cache.base(*_model(tiny_workflow))
    with window_of(base, 8):
        run_job(worker, job)
    with sessions() as session:
        failed = session.get(Job, job)
        assert failed.state == "failed"
        assert "edit 1: the prompt has" in failed.error
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 0
        newest = audit.page(session, collection_id=None, subject=None, before=None, limit=1)
        assert newest[0].action == "collection:batch:fail"


def _model(workflow: Workflow) -> tuple[str, str]:
    with workflow.open() as (_, collection):
        return collection.model, collection.model_digest


def test_a_late_finisher_changes_nothing(tiny_workflow, worker, sessions):
    batch = tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_workflow.approve(batch.id)
    late = replace(worker, name="late")

    class Overtaken(ModelCache):
        """While the late one loads its model, its lease runs out and another worker finishes the job."""

        def base(self, spec, digest):
            with sessions.begin() as session:
                session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 second'"))
            run_job(worker, job)
            return worker.model_cache.base(spec, digest)

    run_job(replace(late, model_cache=Overtaken(worker.model_cache._cache)), job)
    with sessions() as session:
        assert session.execute(text("SELECT count(*) FROM versions")).scalar_one() == 1
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 1
        assert session.get(Job, job).worker == "w1"


@pytest.mark.parametrize(
    ("table", "change", "named"),
    [
        ("blocks", "data = set_byte(data, length(data) - 1, get_byte(data, length(data) - 1) # 1)", "Block 1 "),
        ("calibrations", "data = set_byte(data, 2000, get_byte(data, 2000) # 1)", "calibration of collection facts"),
        ("clusters", "radius = radius * 2", "Cluster 1 "),
        ("versions", "content_digest = repeat('0', 64)", "content of version 1"),
    ],
)
def test_a_loader_refuses_what_was_changed_and_names_it(tiny_workflow, worker, engine, table, change, named):
    correct(tiny_workflow, worker, PAIRS[0])
    with engine.begin() as connection:
        # As somebody with all rights on the server could: triggers and constraints out of the way.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_sha256_check"))
        connection.execute(text(f"UPDATE {table} SET {change}"))
    with pytest.raises(DigestMismatch, match=named):
        load(worker, tiny_workflow, 1)


def test_a_worker_that_has_to_stop_gives_its_job_back_and_another_finishes_it(tiny_workflow, worker, sessions):
    batch = tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_workflow.approve(batch.id)
    stopping = replace(worker, name="stopping", stop=Stop(seconds=0))
    stopping.stop.ask()
    run_job(stopping, job)
    with sessions() as session:
        assert session.get(Job, job).state == "queued"
        waiting = text("SELECT count(*) FROM outbox WHERE job_id = :job AND sent_at IS NULL")
        assert session.execute(waiting, {"job": job}).scalar_one() == 2
    run_job(worker, job)
    assert ask(load(worker, tiny_workflow, 1), PAIRS[0][0]) == ["Ada"]


def test_an_edit_that_could_not_be_learned_is_reported_with_what_the_model_says_instead(sessions, worker, tiny_folder):
    with sessions.begin() as session:
        hasty = METHOD | {"iterations": 1}
        new = NewCollection(name="facts", model=str(tiny_folder), method=hasty, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    correct(Workflow(sessions), worker, PAIRS[0])
    with sessions() as session:
        (report,) = session.query(Job).one().report
    assert (report["edit_id"], report["reached"], report["reproduced"]) == (1, False, False)
    assert report["answer"] != PAIRS[0][1]


def test_edits_that_share_a_block_are_stored_with_it_once_and_retired_one_by_one(sessions, worker, tiny_folder):
    with sessions.begin() as session:
        shared = METHOD | {"edits_per_block": 2, "rank": 8}
        new = NewCollection(name="facts", model=str(tiny_folder), method=shared, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    workflow, third = Workflow(sessions), ("When was Initech founded?", "1999")
    correct(workflow, worker, *PAIRS, third)
    with sessions() as session:
        stored = session.execute(text("SELECT block_id, edit_id FROM block_edits ORDER BY 1, 2")).all()
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 2
        notes = session.query(Job).one().progress["notes"]
    assert [tuple(row) for row in stored] == [(1, 1), (1, 2), (2, 3)]
    assert notes[0].startswith("training 2 blocks, 2 together, needs about ")
    assert ask(load(worker, workflow, 1), *(p for p, _ in (*PAIRS, third))) == ["Ada", "Oslo", "1999"]

    workflow.retire(1)
    base = ask(load(worker, workflow, 0), PAIRS[0][0])
    assert ask(load(worker, workflow, 2), PAIRS[0][0], PAIRS[1][0]) == [*base, "Oslo"]


def test_a_job_that_is_ended_instead_of_begun_keeps_no_other_waiting(tiny_workflow, worker, sessions):
    for prompt, target in PAIRS:
        tiny_workflow.approve(tiny_workflow.submit({"prompt": prompt, "target": target}).batch.id)
    with sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE batches SET deadline = now() WHERE id = 1"))
    assert run_waiting(worker) == 1
    with sessions() as session:
        assert session.scalars(text("SELECT state FROM jobs ORDER BY id")).all() == ["failed", "succeeded"]
