"""Rounds of faults: batches are submitted, processes die, everything is restarted, and the record must be right."""

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.queue import invariants, tiny
from benchmarks.queue.faults import COLLECTIONS, IMPOSSIBLE, Approval, Fault, Round, Step
from benchmarks.queue.invariants import Findings
from benchmarks.queue.stack import Stack
from benchmarks.queue.workers import Child
from benchmarks.queue.workflow import APPROVER, Workflow
from embedded.processes import tail
from registry.base.errors import WrongState
from registry.batches import cancelling
from registry.batches.training import Training

ROUND_SECONDS = 90.0  # the most that the jobs of a round may take once everything is restarted
STOP_SECONDS = 15.0  # for a worker that is told to end
LOOK_SECONDS = 0.1


@dataclass
class Tally:
    """The observations so far."""

    jobs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # that took place, by action and place
    reasons: Counter[str] = field(default_factory=Counter)  # why batches failed that could have succeeded
    unclean_ends: list[str] = field(default_factory=list)  # workers that did not end with status 0 when told to
    findings: Findings = field(default_factory=Findings)
    slowest_seconds: float = 0.0  # until the jobs of a round had ended, after the restart


@dataclass
class Rounds:
    """Runs rounds on a stack, one after another."""

    stack: Stack
    model: str
    seed: int
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.workflow = Workflow(self.stack.sessions)
        self.corrections = tiny.Corrections(random.Random(self.seed))
        for name in COLLECTIONS:
            self.workflow.create(name, self.model, tiny.SHORT)
        self.workflow.create(IMPOSSIBLE, self.model, tiny.IMPOSSIBLE)

    def run(self, plan: Round) -> Findings:
        """Run one round. Returns the violations among its batches."""
        workers = [self.stack.fork_server.worker(*orders) for orders in plan.orders]
        batches = dict[int, str]()
        for step in plan.steps:
            self._pause(step.after)
            self._do(step, workers, batches)
        workers.append(self.mend())
        self._await(list(batches))
        self._end(workers)
        found = invariants.of_batches(self.stack.sessions, batches)
        self._count(batches, found)
        return found

    def mend(self) -> Child:
        """Start processes that died, and a worker without orders."""
        if not self.stack.relay.alive:
            self.stack.relay.start()
        return self.stack.fork_server.worker()

    def _do(self, step: Step, workers: Sequence[Child], batches: dict[int, str]) -> None:
        if isinstance(step.what, Approval):
            what = step.what
            records = self.corrections.make(what.edits)
            batches[self.workflow.approved(what.collection, records, training=Training(what.priority))] = (
                what.collection
            )
            return
        if self._strike(step.what, step.chance, workers, list(batches)):
            self.tally.faults[step.what] += 1

    def _strike(self, fault: Fault, chance: float, workers: Sequence[Child], batches: Sequence[int]) -> bool:
        """Cause a fault; return whether there was a target for it."""
        match fault:
            case Fault.KILL_WORKER:
                return self._signal(workers, chance, signal.SIGKILL)
            case Fault.FREEZE_WORKER:
                return self._signal(workers, chance, signal.SIGSTOP)
            case Fault.STOP_WORKER:
                return self._signal(workers, chance, signal.SIGTERM)
            case Fault.KILL_RELAY:
                self.stack.relay.kill()  # it stays down until everything is restarted
            case Fault.LOSE_BROKER:
                self.stack.lose_broker()
            case Fault.KILL_POSTGRES:
                self.stack.restart_postgres()
            case Fault.REPEAT_MESSAGES:
                messages = self.workflow.messages(limit=20) * 3
                random.Random(chance).shuffle(messages)
                self.stack.send_again(messages)
            case Fault.CANCEL_BATCH:
                return bool(batches) and self._cancel(batches[int(chance * len(batches))])
        return True

    def _signal(self, workers: Sequence[Child], chance: float, number: signal.Signals) -> bool:
        self.stack.fork_server.look()
        if not (alive := [worker for worker in workers if worker.alive]):
            return False
        alive[int(chance * len(alive))].send(number)
        return True

    def _cancel(self, batch_id: int) -> bool:
        try:
            with self.stack.sessions.begin() as session:
                cancelling.cancel(session, batch_id, APPROVER, "for the bench")
        except WrongState:  # it has ended
            return False
        return True

    def _await(self, batches: Sequence[int]) -> None:
        """Wait until no batch waits."""
        started = time.monotonic()
        while self.workflow.unfinished(batches) and time.monotonic() - started < ROUND_SECONDS:
            self._pause(LOOK_SECONDS)
        self.tally.slowest_seconds = max(self.tally.slowest_seconds, time.monotonic() - started)

    def _end(self, workers: Sequence[Child]) -> None:
        """Tell the workers to end, and count how they did."""
        self.stack.fork_server.look()
        living = [worker for worker in workers if worker.alive]
        for worker in living:
            worker.send(signal.SIGTERM)  # a frozen one receives it later
        for worker in living:
            if not self.stack.fork_server.wait(worker, STOP_SECONDS):
                self.tally.unclean_ends.append(f"{worker.log.name} did not end within {STOP_SECONDS:.0f} s")
                worker.send(signal.SIGKILL)
                self.stack.fork_server.wait(worker, STOP_SECONDS)
        for worker in workers:
            self._judge(worker)

    def _judge(self, worker: Child) -> None:
        """Count a worker's faults, and its end unless that is 0, SIGKILL, or SIGTERM before its handler was set."""
        self.tally.faults.update(f"{order.act} at {order.at}" for order in worker.carried_out())
        if worker.status not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self.tally.unclean_ends.append(f"{worker.log.name} ended with {worker.status}: {tail(worker.log, 3)}")

    def _count(self, batches: dict[int, str], found: Findings) -> None:
        states = self.workflow.states(batches)
        self.tally.jobs += len(batches)
        self.tally.states.update(states.values())
        for batch_id, reason in invariants.reasons(self.stack.sessions, batches).items():
            if batches[batch_id] != IMPOSSIBLE and states[batch_id] == "failed":
                self.tally.reasons[reason] += 1
        self.tally.findings += found

    def _pause(self, seconds: float) -> None:
        """Pause, reading the fork server's reports meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.stack.fork_server.look(left)
