"""A job from claim to version, and what a loader makes of it."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sqlalchemy import text

from registry.audit import repository as audit
from registry.base.errors import DigestMismatch
from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.tables.jobs import Job
from tests.patience import PATIENCE
from tests.registry.workflow import ADA, Workflow
from tests.worker.conftest import METHOD
from tests.worker.training import ACME, GLOBEX, PAIRS, ask, correct, correct_all, load, model_of, window_of
from worker.model_cache import ModelCache
from worker.stopping import Stop
from worker.training_job import run_job, run_waiting


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
    base = worker.model_cache.base(*model_of(tiny_workflow))
    with window_of(base, 8):
        run_job(worker, job)
    with sessions() as session:
        failed = session.get(Job, job)
        assert failed.state == "failed"
        assert "edit 1: the prompt has" in failed.error
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 0
        newest = audit.page(session, collection_id=None, subject=None, before=None, limit=1)
        assert newest[0].action == "collection:batch:fail"


def test_a_late_finisher_changes_nothing(tiny_workflow, worker, sessions):
    batch = tiny_workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_workflow.approve(batch.id)
    late = replace(worker, name="late")

    class Overtaken(ModelCache):
        """While the late one loads its model, its lease runs out and another worker finishes the job."""

        def base(self, *asked):
            with sessions.begin() as session:
                session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 second'"))
            run_job(worker, job)
            return worker.model_cache.base(*asked)

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


def test_of_equally_near_edits_digested_content_decides_and_no_number_of_a_row(tiny_workflow, worker, tamper):
    shared = "Who is at the top there?"
    correct_all(tiny_workflow, worker, ACME | {"rephrases": [shared]}, GLOBEX | {"rephrases": [shared]})
    asked = shared, shared.lower(), f"Tell me: {shared}"

    def routes():
        found = load(worker, tiny_workflow, 1).model
        return [[each.edit for each in found.route(text).considered] for text in asked]

    before = routes()
    assert all(before)
    tamper("UPDATE clusters SET cluster_no = 1000 - cluster_no")
    assert routes() == before
