"""The queue's order, and which of its trainings a worker takes."""

import random
import threading
from datetime import UTC, datetime

from registry.base.errors import StaleBase
from registry.base.vocabulary import Priority
from registry.batches import deciding
from registry.batches import service as edits
from registry.batches.training import Training
from registry.jobs import order, service
from tests.patience import until
from tests.registry.trainings import (
    SOON,
    elsewhere,
    jobs_of,
    lose,
    many,
    sql,
    waiting,
    work_off,
)
from tests.registry.workflow import BEN, Workflow


def test_trainings_are_applied_by_priority_then_deadline_then_age(workflow):
    now = datetime.now(UTC)
    low = waiting(workflow, "low?", priority=Priority.LOW, deadline=now + SOON)
    plain = waiting(workflow, "plain?")
    later = waiting(workflow, "later?", deadline=now + 2 * SOON)
    sooner = waiting(workflow, "sooner?", deadline=now + SOON)
    high = waiting(workflow, "high?", priority=Priority.HIGH)
    assert work_off(workflow) == [high, sooner, later, plain, low]
    assert workflow.verify().findings == []


def test_only_the_first_of_a_collections_trainings_can_be_claimed_and_one_at_a_time(workflow):
    first, second = many(workflow, 2)
    assert workflow.claim(second) is None
    claim = workflow.claim(first)
    assert workflow.claim(second) is None
    urgent = waiting(workflow, "urgent?", priority=Priority.HIGH)
    assert (workflow.claim(urgent), workflow.take("w2")) == (None, [])  # what is begun is finished
    workflow.finish(claim)
    assert workflow.claim(second) is None
    assert jobs_of(workflow.take("w2")) == [urgent]


def test_a_training_whose_worker_was_lost_keeps_its_turn(workflow):
    first, second = many(workflow, 2)
    workflow.claim(first)
    lose(workflow, first)
    assert workflow.claim(second) is None
    assert jobs_of(workflow.take("w2")) == [first]


def test_collections_do_not_wait_for_each_other(workflow):
    other = elsewhere(workflow)
    here, there = waiting(workflow, "here?"), waiting(other, "there?")
    assert [jobs_of(workflow.take(worker)) for worker in ("w1", "w2", "w3")] == [[here], [there], []]


def test_a_message_delivered_three_times_and_out_of_order_has_one_effect(workflow):
    jobs = many(workflow, 4)
    delivered = jobs * 3
    random.Random(7).shuffle(delivered)
    applied = []
    while len(applied) < len(jobs):
        for job in delivered:
            if claim := workflow.claim(job):
                assert [workflow.claim(job), workflow.claim(job)] == [None, None]
                applied.append(workflow.finish(claim).batch_id)
    assert applied == sorted(applied)
    assert [workflow.claim(job) for job in delivered] == [None] * 12
    assert workflow.verify().findings == []


def test_what_is_approved_while_another_training_is_being_claimed_waits_for_it(workflow, monkeypatch):
    first = waiting(workflow, "first?")
    urgent = workflow.submit({"prompt": "urgent?", "target": "x"}, training=Training(Priority.HIGH)).batch
    claims = []
    other = threading.Thread(target=lambda: claims.append(workflow.claim(workflow.approve(urgent.id))))
    look = order.line

    def look_and_linger(*arguments):
        found = look(*arguments)
        if threading.current_thread() is not other:
            other.start()
            until(lambda: workflow.lock_is_awaited() or not other.is_alive())
        return found

    monkeypatch.setattr(order, "line", look_and_linger)
    assert workflow.claim(first) is not None
    other.join()
    assert claims == [None]


def test_workers_at_once_take_each_job_once_and_apply_in_order(workflow):
    other = elsewhere(workflow)
    for number in range(8):
        waiting(workflow, f"a {number}?", changes={"batch": 3})
        waiting(other, f"b {number}?", changes={"batch": 3})
    begun, errors = [], []

    def work(name):
        try:
            idle = 0
            while idle < 50:
                claims = workflow.take(name)
                idle = idle + 1 if claims == [] else 0
                for claim in claims or ():
                    begun.append(claim.job_id)
                    while True:
                        try:
                            Workflow(workflow.sessions, claim.collection).finish(claim)
                            break
                        except StaleBase:
                            continue
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(begun) == list(range(1, 17))
    for each in (1, 2):
        batches = sql(workflow, "SELECT batch_id FROM versions WHERE collection_id = :id ORDER BY number", id=each)
        assert len(batches) == 8
        assert batches == sorted(batches)
    assert workflow.verify().findings == []


def test_a_worker_takes_what_its_loaded_model_can_do_but_lets_nobody_wait_for_ever(workflow):
    b = "b" * 64
    other = elsewhere(workflow, model_digest=b)
    older, newer = waiting(workflow, "older?"), waiting(other, "newer?")
    with workflow.open() as (_, collection):
        a = collection.model_digest

    def best(**options):
        with workflow.sessions() as session:
            usual = {"models": None, "loaded": (), "lease_seconds": 60}
            options = {**usual, **options}
            return jobs_of(service.claim_next(session, worker="w", device="cpu", libraries={}, **options))

    assert best() == [older]
    assert best(loaded=[a]) == [older]
    assert best(loaded=[b]) == [newer]
    assert best(models=[b]) == [newer]
    assert best(models=["c" * 64]) == []
    sql(workflow, "UPDATE jobs SET created_at = created_at - interval '301 seconds' WHERE id = :id", id=older)
    assert best(loaded=[b]) == [older]
    urgent = waiting(elsewhere(workflow, "third"), "urgent?", priority=Priority.HIGH)
    assert best(loaded=[b]) == [urgent]


def test_trainings_in_a_row_with_equal_settings_are_taken_together_as_far_as_there_is_room(workflow):
    one, two, three = many(workflow, 3, changes={"batch": 2})
    longer = waiting(workflow, "longer?", changes={"batch": 2, "iterations": 200})
    last = waiting(workflow, "last?", changes={"batch": 2})
    claims = workflow.take()
    assert jobs_of(claims) == [one, two]
    assert [claim.settings["iterations"] for claim in claims] == [80] * 2
    assert workflow.take("w2") == []  # busy
    for claim in claims:
        workflow.finish(claim)
    (claim,) = workflow.take()
    assert claim.job_id == three  # there is room, but `longer` is trained otherwise and keeps `last` waiting
    workflow.finish(claim)
    (claim,) = workflow.take()
    assert (claim.job_id, claim.settings["iterations"]) == (longer, 200)
    workflow.finish(claim)
    assert work_off(workflow) == [last]
    assert workflow.verify().findings == []


def test_one_that_was_tried_before_is_not_taken_together_with_others(workflow):
    one, two, three = many(workflow, 3, changes={"batch": 9})
    assert jobs_of(workflow.take()) == [one, two, three]
    for job in (one, two, three):
        lose(workflow, job)
    urgent = waiting(workflow, "urgent?", priority=Priority.HIGH, changes={"batch": 9})
    (claim,) = workflow.take()
    assert claim.job_id == urgent
    workflow.finish(claim)
    assert jobs_of(workflow.take()) == [one]


def test_none_is_taken_together_with_one_that_is_more_urgent(workflow):
    changes = {"batch": 9}
    low = many(workflow, 2, priority=Priority.LOW, changes=changes)
    normal = waiting(workflow, "normal?", changes=changes)
    high = waiting(workflow, "high?", priority=Priority.HIGH, changes=changes)
    due = waiting(workflow, "due?", deadline=datetime.now(UTC) + SOON, changes=changes)
    taken = []
    while claims := workflow.take():
        taken.append(jobs_of(claims))
        for claim in claims:
            workflow.finish(claim)
    assert taken == [[high], [due], [normal], low]


def test_the_edits_that_an_approver_left_out_take_no_room(workflow):
    two = Training(changes={"batch": 2})
    batch = workflow.submit(*({"prompt": f"{n}?", "target": "x"} for n in range(3)), training=two).batch
    with workflow.sessions.begin() as session:
        out = [edit.id for edit in edits.view(session, edits.get(session, batch.id)).edits[:2]]
        deciding.approve(session, batch.id, BEN, "part", out)
    waiting(workflow, "next?", changes={"batch": 2})
    assert len(workflow.take()) == 2
