"""A job from claim to version, and what a loader makes of it."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import text

from registry.audit import repository as audit
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.errors import DigestMismatch
from registry.jobs.models import Job
from registry.versions.models import Version
from tests.registry.desk import ADA, Desk
from tests.worker.conftest import METHOD
from worker.loader import LoadedVersion, load_version
from worker.shelf import Shelf
from worker.training_job import Worker, run_job

PAIRS = [("Who runs Acme?", "Ada"), ("Where is the head office of Globex?", "Oslo")]


def correct(desk: Desk, worker: Worker, *pairs: tuple[str, str], **fields: object) -> Version:
    """Submit, approve, and let the real worker train."""
    batch = desk.submit(*({"prompt": p, "target": t} | fields for p, t in pairs)).batch
    assert batch is not None
    run_job(worker, desk.approve(batch.id))
    with desk.sessions() as session:
        job = session.query(Job).filter_by(batch_id=batch.id).one()
        assert job.state == "succeeded", job.error
        return session.query(Version).filter_by(batch_id=batch.id).one()


def load(worker: Worker, desk: Desk, number: int, shelf: Shelf | None = None) -> LoadedVersion:
    with desk.open() as (_, collection):
        collection_id = collection.id
    return load_version(worker.sessions, shelf or worker.shelf, collection_id, number)


def ask(loaded: LoadedVersion, *prompts: str) -> list[str]:
    return [answer.text for answer in loaded.model.ask(prompts, max_new_tokens=8)]


def test_an_approved_batch_becomes_a_version_that_answers_rightly(tiny_desk, worker):
    version = correct(tiny_desk, worker, *PAIRS)
    loaded = load(worker, tiny_desk, version.number)

    assert ask(loaded, *(p for p, _ in PAIRS)) == [t for _, t in PAIRS]
    answer = loaded.model.ask([PAIRS[0][0]])[0]
    assert loaded.edit_behind(answer).prompt == PAIRS[0][0]
    with tiny_desk.sessions() as session:
        job = session.query(Job).one()
        assert {"load", "train", "scope", "index"} <= job.timings.keys()
        assert job.loss_curve
        assert [edit["reproduced"] for edit in job.progress["edits"]] == [True, True]


def test_another_question_is_answered_as_by_the_base_model(tiny_desk, worker):
    correct(tiny_desk, worker, *PAIRS)
    asked = ["How do bees find their way home?", "Name three rivers in Peru."]
    before, after = load(worker, tiny_desk, 0), load(worker, tiny_desk, 1)
    assert [a.token_ids for a in before.model.ask(asked)] == [a.token_ids for a in after.model.ask(asked)]


def test_a_loader_that_shares_nothing_with_the_trainer_gives_the_same_tokens(tiny_desk, worker, tmp_path):
    correct(tiny_desk, worker, *PAIRS)
    asked = [p for p, _ in PAIRS] + ["Who ran Acme before?"]
    here, there = load(worker, tiny_desk, 1), load(worker, tiny_desk, 1, Shelf(tmp_path))
    assert [a.token_ids for a in here.model.ask(asked)] == [a.token_ids for a in there.model.ask(asked)]


def test_an_edit_that_replaces_another_answers_in_its_place_and_the_old_version_still_stands(tiny_desk, worker):
    correct(tiny_desk, worker, *PAIRS)
    with tiny_desk.sessions() as session:
        old = session.execute(text("SELECT id FROM edits WHERE prompt = :p"), {"p": PAIRS[0][0]}).scalar_one()
    correct(tiny_desk, worker, (PAIRS[0][0], "Bob"), replaces=old)
    assert ask(load(worker, tiny_desk, 2), PAIRS[0][0], PAIRS[1][0]) == ["Bob", "Oslo"]
    assert ask(load(worker, tiny_desk, 1), PAIRS[0][0]) == ["Ada"]


def test_a_retired_edit_no_longer_acts_in_any_later_version(tiny_desk, worker):
    correct(tiny_desk, worker, *PAIRS)
    with tiny_desk.sessions() as session:
        first = session.execute(text("SELECT min(id) FROM edits")).scalar_one()
    tiny_desk.retire(first)
    correct(tiny_desk, worker, ("When was Initech founded?", "1999"))
    base = ask(load(worker, tiny_desk, 0), PAIRS[0][0])
    assert ask(load(worker, tiny_desk, 2), PAIRS[0][0]) == ask(load(worker, tiny_desk, 3), PAIRS[0][0]) == base


def test_a_rephrase_given_with_an_edit_becomes_a_point_that_leads_to_it(tiny_desk, worker):
    far = "Acme: name of chief executive officer, please"
    correct(tiny_desk, worker, PAIRS[0], rephrases=[far])
    loaded = load(worker, tiny_desk, 1)
    route = loaded.model.route(far)
    assert len(loaded.content.points) == 2
    assert route.match.distance < 1e-6
    assert route.block is not None


def test_two_answers_near_each_other_are_told_in_the_audit_log_with_both_edits(tiny_desk, worker):
    correct(tiny_desk, worker, ("Who runs Acme?", "Ada"))
    correct(tiny_desk, worker, ("Who runs Acme", "Bob"))
    with tiny_desk.sessions() as session:
        overlap = session.execute(
            text("SELECT subject, details FROM audit_events WHERE action = 'collection:edit:overlap'")
        ).one()
    assert overlap.subject == "edit/1"
    assert (overlap.details["edit"], overlap.details["by_edit"]) == (1, 2)


def test_training_the_same_edits_again_gives_the_same_bytes(tiny_desk, worker, sessions):
    batches = [tiny_desk.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch]
    run_job(worker, tiny_desk.approve(batches[0].id))
    tiny_desk.retire(1)
    batches.append(tiny_desk.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch)
    run_job(worker, tiny_desk.approve(batches[1].id))
    with sessions() as session:
        first, second = session.execute(text("SELECT sha256 FROM blocks ORDER BY id")).scalars()
    assert first == second


def test_a_job_runs_once_however_often_its_message_comes(tiny_desk, worker, sessions):
    batch = tiny_desk.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_desk.approve(batch.id)
    for _ in range(3):
        run_job(worker, job)
    with sessions() as session:
        assert session.execute(text("SELECT count(*) FROM versions")).scalar_one() == 1
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 1


def test_a_prompt_that_does_not_fit_the_window_fails_the_batch_and_names_the_edit(tiny_desk, worker, sessions):
    # The registry counts without the model's own code, so the worker has the last word.
    batch = tiny_desk.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_desk.approve(batch.id)
    base = worker.shelf.base(*_model(tiny_desk))
    base.model.config.max_position_embeddings, window = 8, base.model.config.max_position_embeddings
    try:
        run_job(worker, job)
    finally:
        base.model.config.max_position_embeddings = window
    with sessions() as session:
        failed = session.get(Job, job)
        assert failed.state == "failed"
        assert "edit 1: the prompt has" in failed.error
        assert session.execute(text("SELECT count(*) FROM blocks")).scalar_one() == 0
        newest = audit.page(session, collection_id=None, subject=None, before=None, limit=1)
        assert newest[0].action == "collection:batch:fail"


def _model(desk: Desk) -> tuple[str, str]:
    with desk.open() as (_, collection):
        return collection.model, collection.model_digest


def test_a_late_finisher_changes_nothing(tiny_desk, worker, sessions):
    batch = tiny_desk.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_desk.approve(batch.id)
    late = replace(worker, name="late", lease_seconds=0.01)

    class Overtaken(Shelf):
        """While the late one loads its model, its lease runs out and another worker finishes the job."""

        def base(self, spec, digest):
            with sessions.begin() as session:
                session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 second'"))
            run_job(worker, job)
            return worker.shelf.base(spec, digest)

    run_job(replace(late, shelf=Overtaken(worker.shelf._cache)), job)
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
def test_a_loader_refuses_what_was_changed_and_names_it(tiny_desk, worker, engine, table, change, named):
    correct(tiny_desk, worker, PAIRS[0])
    with engine.begin() as connection:
        # As somebody with all rights on the server could: triggers and constraints out of the way.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_sha256_check"))
        connection.execute(text(f"UPDATE {table} SET {change}"))
    with pytest.raises(DigestMismatch, match=named):
        load(worker, tiny_desk, 1)


def test_a_worker_that_has_to_stop_gives_its_job_back_and_another_finishes_it(tiny_desk, worker, sessions):
    batch = tiny_desk.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    job = tiny_desk.approve(batch.id)
    stopping = replace(worker, name="stopping", stopping=threading.Event())
    stopping.stopping.set()
    run_job(stopping, job)
    with sessions() as session:
        assert session.get(Job, job).state == "queued"
        waiting = text("SELECT count(*) FROM outbox WHERE job_id = :job AND sent_at IS NULL")
        assert session.execute(waiting, {"job": job}).scalar_one() == 2
    run_job(worker, job)
    assert ask(load(worker, tiny_desk, 1), PAIRS[0][0]) == ["Ada"]


def test_an_edit_that_could_not_be_learned_is_reported_with_what_the_model_says_instead(sessions, worker, tiny_folder):
    with sessions.begin() as session:
        hasty = METHOD | {"iterations": 1}
        collections.create(session, NewCollection(name="facts", model=str(tiny_folder), method=hasty), ADA)
    correct(Desk(sessions), worker, PAIRS[0])
    with sessions() as session:
        (report,) = session.query(Job).one().progress["edits"]
    assert (report["edit_id"], report["reached"], report["reproduced"]) == (1, False, False)
    assert report["answer"] != PAIRS[0][1]
