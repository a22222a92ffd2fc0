"""The queue's order, and what stops it: priorities, deadlines, groups, pauses, cancellations, tries that failed."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from registry.audit.actor import Actor
from registry.base.errors import LeaseLost, PastDeadline, QueueClosed, RoleNeeded, StaleBase, WrongState
from registry.base.vocabulary import JobKind, Preflight, Priority, QueueState, Role
from registry.batches import deciding
from registry.batches import service as edits
from registry.batches.training import Training
from registry.collections import repository as rows
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs import order, repository, service
from registry.jobs.queues import queue_of
from registry.jobs.schemas import Progress
from registry.jobs.waiting import waits_for
from registry.relay import Relay
from tests.patience import PATIENCE
from tests.registry.workflow import ADA, BEN, Workflow, trained

SOON = timedelta(hours=1)


def waiting(workflow, prompt, **training):
    """The job of an approved batch of one edit."""
    return workflow.approve(workflow.submit({"prompt": prompt, "target": "x"}, training=Training(**training)).batch.id)


def many(workflow, count, **training):
    return [waiting(workflow, f"question {number}?", **training) for number in range(count)]


def elsewhere(workflow, name="other", model_digest=None):
    """Another collection, over another model where a digest is given."""
    with workflow.sessions.begin() as session:
        model = collections.get(session, "facts").model
        new = NewCollection(name=name, model=model, method={"rank": 4, "batch": 1}, preflight=Preflight.NONE)
        made = collections.create(session, new, ADA)
        if model_digest:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(
                text("UPDATE collections SET model_digest = :d WHERE id = :id"), {"d": model_digest, "id": made.id}
            )
    return Workflow(workflow.sessions, name)


def jobs_of(claims):
    return [claim.job_id for claim in claims]


def sql(workflow, statement, **values):
    with workflow.sessions.begin() as session:
        result = session.execute(text(statement), values)
        return result.scalars().all() if result.returns_rows else None


def lose(workflow, job):
    sql(workflow, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = :id", id=job)


def state_of(workflow, batch_id):
    (state,) = sql(workflow, "SELECT state FROM batches WHERE id = :id", id=batch_id)
    return state


def work_off(workflow):
    """The jobs in the order in which one worker gets them."""
    done = []
    while claims := workflow.take():
        done += jobs_of(claims)
        for claim in claims:
            Workflow(workflow.sessions, claim.collection).finish(claim)
    return done


def said(workflow, batch_id):
    with workflow.sessions() as session:
        return waits_for(session, repository.latest_of_batch(session, batch_id))


# Order


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
            other.join(0.5)
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


# Which one a worker takes


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


# Deadlines


def overdue(workflow, prompt="late?"):
    job = waiting(workflow, prompt, deadline=datetime.now(UTC) + SOON)
    sql(
        workflow,
        "SET LOCAL session_replication_role = replica; UPDATE batches SET deadline = now() - interval '1 second'",
    )
    return job


def test_a_training_whose_deadline_has_passed_ends_with_the_reason_and_the_next_is_woken(workflow):
    late, then = overdue(workflow), waiting(workflow, "then?")
    sql(workflow, "DELETE FROM outbox")
    assert workflow.take() is None  # ask again
    assert sql(workflow, "SELECT state FROM jobs WHERE id = :id", id=late) == ["failed"]
    (error,) = sql(workflow, "SELECT error FROM jobs WHERE id = :id", id=late)
    assert "Batch 1 was to be applied by" in error
    assert "had not been begun" in error
    assert "submit its edits again" in error
    assert then in sql(workflow, "SELECT job_id FROM outbox")
    assert jobs_of(workflow.take()) == [then]


def test_the_relay_ends_overdue_trainings_also_where_no_worker_runs_and_of_paused_collections(workflow, relay):
    late = overdue(workflow)
    workflow.set_queue(QueueState.PAUSED)
    relay.turn()
    assert sql(workflow, "SELECT state FROM jobs WHERE id = :id", id=late) == ["failed"]
    assert sql(workflow, "SELECT actor FROM audit_events WHERE action = 'collection:batch:fail'") == ["clock"]
    assert sql(workflow, "SELECT state FROM batches") == ["failed"]


def test_what_was_begun_and_given_back_before_its_deadline_ends_saying_so(workflow, relay):
    waiting(workflow, "first?", deadline=datetime.now(UTC) + SOON)
    with workflow.sessions.begin() as session:
        service.give_back(session, service.claim(session, 1, worker="w", device="cpu", libraries={}, lease_seconds=60))
    sql(
        workflow,
        "SET LOCAL session_replication_role = replica; UPDATE batches SET deadline = now() - interval '1 second'",
    )
    relay.turn()
    (error,) = sql(workflow, "SELECT error FROM jobs")
    assert "was not done by then" in error


def test_what_is_handed_in_after_its_deadline_is_not_applied(workflow):
    job = waiting(workflow, "late?", deadline=datetime.now(UTC) + SOON)
    claim = workflow.claim(job)
    late = replace(claim, deadline=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(PastDeadline, match="Batch 1 was to be applied by"):
        workflow.finish(late)
    assert sql(workflow, "SELECT count(*) FROM versions") == [0]
    assert workflow.finish(claim).number == 1


# Locks of others


@contextmanager
def held_by_another(workflow):
    """The collection, as by a version that is being written."""
    with workflow.open() as (session, collection):
        rows.lock(session, collection.id)
        yield


def test_a_worker_passes_over_a_collection_that_another_transaction_has(workflow):
    other = elsewhere(workflow)
    here, there = waiting(workflow, "here?"), waiting(other, "there?")
    with held_by_another(workflow), ThreadPoolExecutor(1) as thread:
        assert jobs_of(thread.submit(workflow.take, "w1").result(PATIENCE)) == [there]
        assert thread.submit(workflow.take, "w2").result(PATIENCE) is None  # ask again
    assert jobs_of(workflow.take("w2")) == [here]
    assert workflow.take("w3") == []


def test_a_worker_with_nothing_else_to_do_stands_in_line_for_a_collection(workflow):
    job = waiting(workflow, "first?")
    with ThreadPoolExecutor(1) as thread:
        with held_by_another(workflow):
            claims = thread.submit(workflow.take)
            time.sleep(0.3)
            assert not claims.done()
        assert jobs_of(claims.result(PATIENCE)) == [job]
    with workflow.sessions() as session:
        assert rows.lock_soon(session, 1, 1) is not None
        assert session.scalar(text("SHOW lock_timeout")) == "0"


def test_the_relay_sends_while_another_transaction_has_a_collection(workflow, relay, sent):
    late, other = overdue(workflow), waiting(elsewhere(workflow), "there?")
    with held_by_another(workflow), ThreadPoolExecutor(1) as thread:
        assert thread.submit(relay.turn).result(PATIENCE) == 2
    assert [each.job_id for each in sent] == [late, other]
    relay.turn()
    assert sql(workflow, "SELECT state FROM jobs ORDER BY id") == ["failed", "queued"]


# Paused and draining


def test_nothing_of_a_paused_collection_is_begun_and_what_runs_is_finished(workflow):
    first, second = many(workflow, 2)
    claim = workflow.claim(first)
    workflow.set_queue(QueueState.PAUSED)
    workflow.finish(claim)
    third = waiting(workflow, "third?")  # taken in, and waits
    assert (workflow.claim(second), workflow.take()) == (None, [])
    assert "paused" in said(workflow, 2)
    assert "melo collection resume facts" in said(workflow, 2)
    sql(workflow, "DELETE FROM outbox")
    workflow.set_queue(QueueState.OPEN)
    assert sql(workflow, "SELECT job_id FROM outbox") == [second]
    assert work_off(workflow) == [second, third]
    assert workflow.verify().findings == []


def test_a_draining_collection_finishes_what_is_queued_and_takes_nothing_in(workflow):
    late = workflow.submit({"prompt": "late?", "target": "x"}).batch
    job = waiting(workflow, "early?")
    workflow.set_queue(QueueState.DRAINING)
    with pytest.raises(QueueClosed, match="melo collection resume facts"):
        workflow.submit({"prompt": "new?", "target": "x"})
    with pytest.raises(QueueClosed):
        workflow.approve(late.id)
    assert work_off(workflow) == [job]
    workflow.set_queue(QueueState.OPEN)
    workflow.set_queue(QueueState.OPEN)  # no event
    workflow.approve(late.id)
    actions = sql(workflow, "SELECT action FROM audit_events WHERE action LIKE 'collection:queue:%' ORDER BY seq")
    assert actions == ["collection:queue:drain", "collection:queue:open"]
    assert workflow.verify().findings == []


# Cancelling


def test_a_cancelled_batch_is_not_trained_and_can_be_approved_again(workflow):
    first, second = many(workflow, 2)
    workflow.cancel(1)
    assert (workflow.claim(first), state_of(workflow, 1)) == (None, "cancelled")
    assert work_off(workflow) == [second]
    again = workflow.approve(1)
    assert work_off(workflow) == [again]
    assert workflow.verify().findings == []


def test_what_a_worker_hands_in_after_its_batch_was_cancelled_changes_nothing(workflow, engine):
    job, then = many(workflow, 2)
    claim = workflow.claim(job)
    result = trained(claim, workflow.content(0))
    sql(workflow, "DELETE FROM outbox")
    workflow.cancel(1)
    assert sql(workflow, "SELECT job_id FROM outbox") == [then]
    with workflow.sessions.begin() as session:
        assert not service.heartbeat(session, claim, Progress())
    for late in (
        lambda session: service.fail(session, claim, "x"),
        lambda session: service.give_back(session, claim),
        lambda session: service.retry_later(session, claim, "x", 1),
        lambda session: service.hold(session, claim),
    ):
        with pytest.raises(LeaseLost), workflow.sessions.begin() as session:
            late(session)
    with pytest.raises(LeaseLost):
        workflow.finish(claim, result)
    with engine.connect() as connection:
        for table in ("blocks", "points", "clusters", "versions"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
    assert state_of(workflow, 1) == "cancelled"
    assert workflow.verify().findings == []


def test_who_may_cancel_and_what(workflow):
    waiting(workflow, "first?")
    with pytest.raises(RoleNeeded):
        workflow.cancel(1, Actor("eve", Role.EDITOR))
    workflow.cancel(1, Actor("ada", Role.EDITOR))  # her own
    workflow.finish(workflow.claim(workflow.approve(1)))
    with pytest.raises(WrongState, match="revert"):
        workflow.cancel(1)
    waiting_for_ben = workflow.submit({"prompt": "second?", "target": "x"}).batch
    with pytest.raises(WrongState, match=f"melo batch reject {waiting_for_ben.id}"):
        workflow.cancel(waiting_for_ben.id)


def test_cancelling_ends_the_batchs_preflight_too(workflow):
    sql(workflow, "SET LOCAL session_replication_role = replica; UPDATE collections SET preflight = 'keys'")
    batch = workflow.submit({"prompt": "first?", "target": "x"}).batch
    with workflow.sessions() as session:
        preflight = repository.latest_of_batch(session, batch.id, JobKind.PREFLIGHT).id
    assert workflow.claim(preflight) is not None
    job = workflow.approve(batch.id)
    assert workflow.claim(job) is None  # it waits for the preflight
    assert workflow.take() == []
    workflow.cancel(batch.id)
    assert sql(workflow, "SELECT DISTINCT state FROM jobs") == ["cancelled"]


# Failures that may pass


def test_a_failure_that_may_pass_is_tried_again_after_ever_longer_pauses_and_then_given_up(workflow, relay):
    job, behind = many(workflow, 2)
    relay.turn()
    for attempt, pause in enumerate((5, 10, 20, 40), 1):
        claim = workflow.take()[0]
        assert (claim.job_id, claim.attempt) == (job, attempt)
        with workflow.sessions.begin() as session:
            assert service.retry_later(session, claim, "no space left\non device", 5)
        assert state_of(workflow, 1) == "approved"
        (left,) = sql(
            workflow, "SELECT extract(epoch FROM not_before - clock_timestamp()) FROM jobs WHERE id = :id", id=job
        )
        assert pause - 2 < left <= pause
        assert (workflow.claim(job), workflow.claim(behind), workflow.take()) == (None, None, [])  # order is kept
        with workflow.sessions.begin() as session:
            service.worker_seen(session, "w1", "cpu")
        assert "tried again at" in said(workflow, 1)
        assert "after: no space left" in said(workflow, 1)
        assert "batch 1" in said(workflow, 2)
        assert relay.turn() == 0  # no message while the time lies ahead
        sql(workflow, "UPDATE jobs SET not_before = clock_timestamp() WHERE id = :id", id=job)
        assert [relay.turn(), relay.turn()] == [1, 0]
    claim = workflow.take()[0]
    with workflow.sessions.begin() as session:
        assert not service.retry_later(session, claim, "no space left", 5)
    assert state_of(workflow, 1) == "failed"
    assert sql(workflow, "SELECT error FROM jobs WHERE id = :id", id=job) == [
        "5 attempts failed or were lost; the last one failed with: no space left"
    ]
    assert work_off(workflow) == [behind]
    assert workflow.verify().findings == []


def test_a_job_that_was_given_back_waits_as_approved_and_is_taken_at_once(workflow):
    job = waiting(workflow, "first?")
    claim = workflow.claim(job)
    sql(workflow, "DELETE FROM outbox")
    with workflow.sessions.begin() as session:
        service.give_back(session, claim)
    assert (state_of(workflow, 1), sql(workflow, "SELECT job_id FROM outbox")) == ("approved", [job])
    assert workflow.verify().findings == []
    assert workflow.take("w2")[0].attempt == 1


def test_an_applied_job_says_nothing_of_earlier_failures_and_keeps_what_was_trained_together(workflow):
    job = waiting(workflow, "first?")
    with workflow.sessions.begin() as session:
        claim = service.claim(session, job, worker="w", device="cpu", libraries={}, lease_seconds=60)
        service.retry_later(session, claim, "the disk was full", 0.0)
    claim = workflow.claim(job)
    with workflow.sessions.begin() as session:
        service.write_report(service.hold(session, claim), [], trained_together=[7, claim.edits[0].id])
    workflow.finish(claim)
    with workflow.sessions() as session:
        found = repository.by_id(session, job)
        assert (found.error, found.trained_together) == (None, [7, claim.edits[0].id])


# Messages


@pytest.fixture
def sent():
    return []


@pytest.fixture
def relay(sessions, sent):
    return Relay(sessions, sent.append, 120, 0.01, threading.Event())


def test_messages_go_to_the_queue_of_their_model_with_their_priority(workflow, relay, sent):
    job, urgent = waiting(workflow, "first?"), waiting(workflow, "urgent?", priority=Priority.HIGH)
    relay.turn()
    with workflow.open() as (_, collection):
        queue = queue_of(collection.model_digest)
    assert [(each.job_id, each.queue, each.priority) for each in sent] == [(job, queue, 3), (urgent, queue, 0)]


def test_only_those_are_sent_again_whose_turn_it_is(workflow, relay):
    many(workflow, 3)
    relay.turn()
    sql(workflow, "UPDATE outbox SET sent_at = now() - interval '1 hour'")
    assert [relay.turn(), relay.turn()] == [1, 0]
    workflow.set_queue(QueueState.PAUSED)
    sql(workflow, "UPDATE outbox SET sent_at = now() - interval '1 hour'")
    assert relay.turn() == 0


def test_messages_of_a_job_that_nobody_takes_become_rare_and_leave_one_row(workflow, relay):
    waiting(workflow, "first?")
    relay.turn()
    for pause in (120, 240, 480, 960, 1920, 3840, 3840):
        for seconds, messages in ((pause - 5, 0), (pause + 5, 1)):
            sql(workflow, "UPDATE outbox SET sent_at = now() - make_interval(secs => :s)", s=seconds)
            assert (relay.turn(), relay.turn()) == (messages, 0)
        assert sql(workflow, "SELECT count(*) FROM outbox") == [1]


def test_the_end_of_a_training_wakes_a_worker_for_the_next(workflow, relay, sent):
    first, second = many(workflow, 2)
    relay.turn()
    workflow.finish(workflow.claim(first))
    sent.clear()
    relay.turn()
    assert [each.job_id for each in sent] == [second]


def test_old_messages_of_jobs_that_are_over_are_forgotten(workflow, relay):
    over, live = many(workflow, 2)
    workflow.finish(workflow.claim(over))
    relay.turn()
    sql(workflow, "UPDATE outbox SET sent_at = now() - interval '2 days'")
    relay.turn()  # within the minute
    assert over in sql(workflow, "SELECT job_id FROM outbox")
    relay.pruned_at = float("-inf")
    relay.turn()
    assert set(sql(workflow, "SELECT job_id FROM outbox")) == {live}


# The record


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("UPDATE collections SET queue = 'paused'", "it is paused, but by its events it is open"),
        ("UPDATE batches SET priority = 'high'", "its priority, deadline or settings differ"),
        ("UPDATE batches SET deadline = now()", "its priority, deadline or settings differ"),
        ("UPDATE batches SET training = '{\"seed\": 1}'", "its priority, deadline or settings differ"),
        ("UPDATE batches SET state = 'cancelled'", "it is cancelled, but by its events and versions it is approved"),
    ],
)
def test_the_audit_finds_what_was_changed_beside_its_events(workflow, tamper, change, finding):
    waiting(workflow, "first?", priority=Priority.LOW, deadline=datetime.now(UTC) + SOON, changes={"loss_target": 0.05})
    assert workflow.verify().findings == []
    tamper(change)
    assert any(finding in each.detail for each in workflow.verify().findings)
