"""Real processes that are killed or frozen while they work: every batch has its effect once, or its reason."""

import random
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.queue import invariants, tiny
from benchmarks.queue.faults import IMPOSSIBLE, OF_FAILURES, schedule
from benchmarks.queue.orders import Act, Order
from benchmarks.queue.rounds import Rounds
from benchmarks.queue.stack import HASTE, Stack
from benchmarks.queue.workflow import Workflow
from tests import patience
from tests.patience import PATIENCE
from worker.fault_points import FaultPoint

pytestmark = pytest.mark.long

LEASE_SECONDS = 1.0
ROUNDS = 10


@pytest.fixture(scope="module")
def rounds() -> Iterator[Rounds]:
    """A stack without workers, with its collections."""
    haste = HASTE | {"lease_seconds": LEASE_SECONDS, "resend_seconds": LEASE_SECONDS}
    # Not one of pytest's folders, which other runs close to PostgreSQL's user.
    with tempfile.TemporaryDirectory(prefix="melo-faults-") as name, Stack(Path(name), haste).running() as stack:
        yield Rounds(stack, tiny.write_model(Path(name) / "model"), secrets.randbelow(10**6))


@pytest.fixture
def stack(rounds: Rounds) -> Iterator[Stack]:
    """With no workers before the test, and none after it."""
    yield rounds.stack
    if not rounds.stack.relay.alive:
        rounds.stack.relay.start()
    for child in rounds.stack.fork_server.children.values():
        child.send(signal.SIGKILL)
    for child in rounds.stack.fork_server.children.values():
        rounds.stack.fork_server.wait(child, PATIENCE)
    rounds.stack.fork_server.children.clear()


@pytest.fixture
def workflow(stack: Stack) -> Workflow:
    return Workflow(stack.sessions)


@pytest.fixture
def batch(rounds: Rounds, workflow: Workflow) -> Callable[..., int]:
    """Hand in an approved batch; returns its id."""

    def approved(collection: str = "first", edits: int = 2) -> int:
        return workflow.approved(collection, rounds.corrections.make(edits))

    return approved


def until(stack: Stack, is_so: Callable[[], object]) -> None:
    """Wait until it is so, and take in how the workers do meanwhile."""

    def looked() -> object:
        stack.fork_server.look()
        return is_so()

    patience.until(looked)


def ended(stack: Stack, *batches: int) -> list[str]:
    """How the batches ended, once they have. Fails where the record is not what it must be."""
    workflow = Workflow(stack.sessions)
    until(stack, lambda: not workflow.unfinished(batches))
    assert invariants.of_batches(stack.sessions, batches).all == []
    states = workflow.states(batches)
    return [states[batch] for batch in batches]


def one(stack: Stack, query: str, **values: object) -> object:
    with stack.sessions() as session:
        return session.execute(text(query), values).scalar_one()


def attempts(stack: Stack, batch: int) -> object:
    return one(stack, "SELECT attempt FROM jobs WHERE batch_id = :batch AND kind = 'train'", batch=batch)


@pytest.mark.parametrize("point", list(FaultPoint))
def test_a_worker_that_is_killed_at_a_point_leaves_a_batch_that_is_applied_once_or_failed(stack, batch, point):
    orders = [Order(point)]
    if point is FaultPoint.GIVING_BACK:  # only who is told to stop comes there
        orders.insert(0, Order(FaultPoint.TRAINING, Act.STOP))
    killed = stack.fork_server.worker(*orders)
    given = batch(IMPOSSIBLE if point in OF_FAILURES else "first")
    assert stack.fork_server.wait(killed, PATIENCE)
    assert (killed.status, killed.carried_out()) == (-signal.SIGKILL, orders)
    stack.fork_server.worker()
    assert ended(stack, given) == ["failed" if point in OF_FAILURES else "applied"]


def test_a_worker_that_wakes_when_another_has_its_job_changes_nothing(stack, batch):
    late = stack.fork_server.worker(Order(FaultPoint.FINISHING, Act.FREEZE), held=True)
    given = batch()
    until(stack, late.carried_out)
    other = stack.fork_server.worker(Order(FaultPoint.TRAINED, Act.REST))  # it has the job when the late one wakes
    until(stack, other.carried_out)
    late.send(signal.SIGCONT)
    assert ended(stack, given) == ["applied"]
    until(stack, lambda: "the lease was lost" in late.log.read_text())
    assert attempts(stack, given) == 2
    query = "SELECT actor FROM audit_events WHERE action = 'collection:version:apply' ORDER BY seq DESC LIMIT 1"
    assert str(one(stack, query)).endswith(f"/{other.pid}")
    stack.fork_server.look()
    assert late.alive


def test_what_is_approved_while_the_relay_is_dead_is_sent_when_it_is_back(stack, batch):
    stack.fork_server.worker()
    assert ended(stack, batch()) == ["applied"]  # the worker is there, and has seen that nothing is left
    stack.relay.kill()
    given = batch()
    stack.relay.start()
    assert ended(stack, given) == ["applied"]


def test_messages_that_the_broker_loses_with_all_its_data_delay_the_jobs_and_no_more(stack, batch):
    worker = stack.fork_server.worker()
    assert ended(stack, batch()) == ["applied"]
    worker.send(signal.SIGSTOP)
    batches = [batch("first"), batch("second")]
    until(stack, lambda: one(stack, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0)
    stack.lose_broker()
    worker.send(signal.SIGCONT)
    assert ended(stack, *batches) == ["applied"] * 2


def test_jobs_go_on_when_the_database_is_back_after_it_was_killed(stack, batch):
    workers = [stack.fork_server.worker(Order(FaultPoint.TRAINED, Act.FREEZE)), stack.fork_server.worker()]
    batches = [batch(name, 4) for name in ("first", "first", "second", "third")]
    until(stack, workers[0].carried_out)
    stack.restart_postgres()
    assert ended(stack, *batches) == ["applied"] * 4
    stack.fork_server.look()
    assert all(worker.alive for worker in workers)


def test_a_worker_that_starts_while_the_database_is_away_waits_for_it(stack, batch):
    given = batch()
    stack.postgres.kill()
    worker = stack.fork_server.worker()
    assert not stack.fork_server.wait(worker, 1)
    stack.restart_postgres()
    assert ended(stack, given) == ["applied"]
    assert worker.alive


def test_messages_that_come_three_times_and_in_any_order_have_one_effect(stack, workflow, batch):
    batches = [batch(name) for name in ("first", "second", "third", "first")]
    messages = workflow.messages(limit=10) * 3
    random.Random(0).shuffle(messages)
    stack.send_again(messages)
    for _ in range(2):
        stack.fork_server.worker()
    assert ended(stack, *batches) == ["applied"] * 4
    stack.send_again(messages)
    assert ended(stack, batch()) == ["applied"]
    assert [attempts(stack, each) for each in batches] == [1] * 4
    assert invariants.of_batches(stack.sessions, batches).all == []


def test_a_message_that_is_delivered_again_after_the_visibility_timeout_has_one_effect(stack, batch):
    at_once = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    late = stack.fork_server.worker(Order(FaultPoint.SCOPED, Act.FREEZE), transport=at_once, held=True)
    given = batch()
    until(stack, late.carried_out)
    stack.relay.kill()  # nobody else sends again
    other = stack.fork_server.worker(transport=at_once)
    assert ended(stack, given) == ["applied"]
    assert str(one(stack, "SELECT worker FROM jobs WHERE batch_id = :batch", batch=given)).endswith(f"/{other.pid}")
    late.send(signal.SIGCONT)
    until(stack, lambda: "the lease was lost" in late.log.read_text())
    assert ended(stack, given) == ["applied"]


def test_rounds_of_random_faults_leave_a_record_in_which_everything_is_true(rounds, stack):
    print(f"seed {rounds.seed}")  # pytest shows it where the test fails
    for plan in schedule(rounds.seed, ROUNDS):
        rounds.run(plan)
    tally = rounds.tally
    assert tally.findings.all == [], f"seed {rounds.seed}"
    assert tally.unclean_ends == []
    assert tally.jobs == tally.states.total() >= 2 * ROUNDS
    assert tally.faults.total() >= ROUNDS


def test_after_all_of_that_the_whole_record_is_intact(stack):
    assert invariants.of_everything(stack.sessions).all == []
