"""The relay's messages to workers, and who waits for whose lock."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy import text

from registry.base.vocabulary import Priority, QueueState
from registry.collections import repository as rows
from registry.jobs.outbox import queue_of
from tests.patience import PATIENCE, until
from tests.registry.trainings import elsewhere, jobs_of, many, overdue, sql, waiting


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
            until(workflow.lock_is_awaited)
            assert not claims.done()
        assert jobs_of(claims.result(PATIENCE)) == [job]
    with workflow.sessions() as session:
        limit = session.scalar(text("SHOW lock_timeout"))
        assert rows.lock_soon(session, 1, 1) is not None
        assert session.scalar(text("SHOW lock_timeout")) == limit


def test_the_relay_sends_while_another_transaction_has_a_collection(workflow, relay, sent):
    late, other = overdue(workflow), waiting(elsewhere(workflow), "there?")
    with held_by_another(workflow), ThreadPoolExecutor(1) as thread:
        assert thread.submit(relay.turn).result(PATIENCE) == 2
    assert [each.job_id for each in sent] == [late, other]
    relay.turn()
    assert sql(workflow, "SELECT state FROM jobs ORDER BY id") == ["failed", "queued"]


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
