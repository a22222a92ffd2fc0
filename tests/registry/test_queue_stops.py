"""What stops a training: deadlines, pauses, cancellations."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry.audit.actor import Actor
from registry.base.errors import LeaseLost, PastDeadline, QueueClosed, RoleNeeded, WrongState
from registry.base.vocabulary import JobKind, QueueState, Role
from registry.jobs import repository, service
from registry.jobs.schemas import Progress
from tests.registry.trainings import SOON, jobs_of, many, overdue, said, sql, state_of, waiting, work_off
from tests.registry.workflow import trained


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
