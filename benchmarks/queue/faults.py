"""The schedule of faults: which happen in which round, and when, all derived from the seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice

from benchmarks.queue.orders import Act, Order
from registry.base.vocabulary import Priority
from worker.fault_points import FaultPoint

COLLECTIONS = ("first", "second", "third")
IMPOSSIBLE = "impossible"  # the collection whose jobs cannot succeed
MOST_EDITS = 4
LONGEST_PAUSE = 0.5  # seconds between two steps
OF_FAILURES = frozenset({FaultPoint.FAILING, FaultPoint.FAILED})  # only a job that fails passes them


class Fault(StrEnum):
    """A fault of the stack, besides those that workers are ordered to cause at a fault point."""

    KILL_WORKER = "kill-worker"
    FREEZE_WORKER = "freeze-worker"  # for longer than its lease
    STOP_WORKER = "stop-worker"  # SIGTERM
    KILL_RELAY = "kill-relay"
    LOSE_BROKER = "lose-broker"  # killed, and restarted without its data
    KILL_POSTGRES = "kill-postgres"
    REPEAT_MESSAGES = "repeat-messages"  # those of many jobs, each three times, in any order
    CANCEL_BATCH = "cancel-batch"


@dataclass(frozen=True)
class Approval:
    """A batch to be submitted and approved."""

    collection: str
    edits: int
    priority: Priority


@dataclass(frozen=True)
class Step:
    """A step of a round. after: pause before it, in seconds. chance: from 0 to 1, selects its target."""

    after: float
    what: Approval | Fault
    chance: float


@dataclass(frozen=True)
class Round:
    orders: tuple[tuple[Order, ...], ...]  # of each worker
    steps: tuple[Step, ...]


def schedule(seed: int, rounds: int) -> Iterator[Round]:
    """Yield the rounds of a seed. Every point comes once before any comes again, and so does every fault."""
    points, faults = list(FaultPoint), list(Fault)
    chance = random.Random(f"order {seed}")
    chance.shuffle(points)
    chance.shuffle(faults)
    for number, point, fault in islice(zip(range(rounds), cycle(points), cycle(faults), strict=False), rounds):
        yield _round(random.Random(f"{seed} {number}"), point, fault)


def _round(chance: random.Random, point: FaultPoint, fault: Fault) -> Round:
    approvals = [
        Approval(chance.choice(COLLECTIONS), chance.randint(1, MOST_EDITS), chance.choice(list(Priority)))
        for _ in range(chance.randint(2, 4))
    ]
    if point in OF_FAILURES or chance.random() < 0.2:
        approvals.append(Approval(IMPOSSIBLE, 1, Priority.NORMAL))
    faults = [fault, *chance.sample(list(Fault), chance.randint(0, 2))]
    rest: list[Approval | Fault] = [*approvals[1:], *faults]
    chance.shuffle(rest)
    whats: list[Approval | Fault] = [approvals[0], *rest]
    steps = tuple(Step(round(chance.uniform(0, LONGEST_PAUSE), 2), what, chance.random()) for what in whats)
    # For the other worker the same point, so that one of them reaches it, or any.
    second = point if chance.random() < 0.5 else chance.choice(list(FaultPoint))
    return Round((_orders(chance, point, 1), _orders(chance, second, chance.randint(1, 2))), steps)


def _orders(chance: random.Random, point: FaultPoint, time: int) -> tuple[Order, ...]:
    act = Act.FREEZE if chance.random() < 0.2 else Act.KILL
    if point is FaultPoint.GIVING_BACK:  # only a worker that is told to stop reaches it
        return Order(FaultPoint.TRAINING, Act.STOP), Order(point, act)
    return (Order(point, act, time),)
