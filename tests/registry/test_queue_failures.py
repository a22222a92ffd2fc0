"""Trainings that failed or were given back are tried again, and what was changed beside its events is found."""

from datetime import UTC, datetime

import pytest

from registry.base.vocabulary import Priority
from registry.jobs import repository, service
from tests.registry.trainings import SOON, many, said, sql, state_of, waiting, work_off


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
