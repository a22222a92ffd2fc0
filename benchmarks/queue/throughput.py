"""Throughput of the queue compared with the bare trainer, memory of the workers, and the cost of an idle one."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from sqlalchemy import Float, cast, func, select, true

from benchmarks.machine import BYTES_PER_MB
from benchmarks.queue import invariants, tiny
from benchmarks.queue.invariants import Findings
from benchmarks.queue.stack import Stack
from benchmarks.queue.workers import BenchBroken, Child
from benchmarks.queue.workflow import Workflow
from embedded.processes import tail
from registry.base.vocabulary import JobState
from registry.tables.jobs import Job

COLLECTIONS = 4
WORKERS = 2  # of one thread each, for the queue and for the bare trainer
EARLY = 0.2  # share of the batches after which memory is first measured
SETTLE_SECONDS = 10.0  # at most, after which a worker without jobs counts as idle
PATIENCE_SECONDS = 3600.0
BARE = "bare trainer"

Advance = Callable[[str, int, int], None]  # stage, amount done, total


@dataclass
class Throughput:
    """The measured throughput."""

    edits: int
    batches: int
    bare_rate: float = 0.0  # edits/s of all processes
    queue_rate: float = 0.0
    reproduced: dict[str, float] = field(default_factory=dict)  # share of edits that learned their target
    cpu_seconds: dict[str, float] = field(default_factory=dict)  # of each program, while the edits were trained
    stages: dict[str, float] = field(default_factory=dict)  # seconds of all jobs
    memory_mb: dict[str, list[float]] = field(default_factory=dict)  # of each worker
    states: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    @property
    def ratio(self) -> float:
        return self.queue_rate / self.bare_rate if self.bare_rate else 0.0

    @property
    def cpu_ratio(self) -> float:
        """The same ratio in CPU seconds of all programs of the bench, excluding the machine's other work."""
        of_queue = sum(self.cpu_seconds.values()) - self.cpu_seconds.get(BARE, 0)
        return self.cpu_seconds.get(BARE, 0) / of_queue if of_queue else 0.0

    @property
    def memory_growth(self) -> float:
        """Growth from EARLY to the end, of the worker that grew most; 1: none."""
        early, end = self.memory_mb.get("early", []), self.memory_mb.get("end", [])
        return max((after / before for before, after in zip(early, end, strict=True)), default=0.0)


def measure(stack: Stack, model: str, edits: int, batches: int, seed: int, advance: Advance) -> Throughput:
    """Measure the bare trainer on half of the batches before, and on the other half after, the queue takes them all.

    A machine that becomes slower or faster meanwhile thus favours neither.
    """
    made = tiny.Corrections(random.Random(seed))
    work = [made.make(edits // batches + (i < edits % batches)) for i in range(batches)]
    half = len(work) // 2
    measured = Throughput(edits, batches)
    bare = _bare(stack, model, work[:half], lambda *done: advance("bare trainer, first half", *done))
    _through_queue(stack, model, work, measured, lambda *done: advance("through the queue", *done))
    bare.update(_bare(stack, model, work[half:], lambda *done: advance("bare trainer, second half", *done)))
    measured.bare_rate = edits / bare["seconds"]
    measured.cpu_seconds[BARE] = round(bare["cpu_seconds"], 1)
    measured.reproduced["bare"] = bare["reproduced"] / edits
    return measured


def _bare(stack: Stack, model: str, work: Sequence[Any], advance: Callable[[int, int], None]) -> Counter[str]:
    """Return seconds, CPU seconds, and the number of edits learned."""
    parts = [work[i::WORKERS] for i in range(WORKERS) if work[i::WORKERS]]
    advance(0, len(work))
    children = []
    for i, part in enumerate(parts):
        given, out = stack.folder / f"bare-{i}.json", stack.folder / f"bare-{i}-done.json"
        given.write_text(json.dumps(part), "utf-8")
        out.unlink(missing_ok=True)
        child = stack.fork_server.bare(model=model, settings=tiny.WHOLE, edits=str(given), out=str(out))
        children.append((child, out))
    ends = []
    for child, out in children:
        if not stack.fork_server.wait(child, PATIENCE_SECONDS) or child.status:
            raise BenchBroken(f"The bare trainer ended with {child.status}. Its log ends:\n{tail(child.log)}")
        ends.append(json.loads(out.read_text("utf-8")))
    advance(len(work), len(work))
    taken = Counter({"seconds": max(end["ended"] for end in ends) - min(end["started"] for end in ends)})
    for end in ends:
        taken.update({name: end[name] for name in ("cpu_seconds", "reproduced")})
    return taken


def _through_queue(
    stack: Stack, model: str, work: Sequence[Any], measured: Throughput, advance: Callable[[int, int], None]
) -> None:
    workflow = Workflow(stack.sessions)
    for i in range(COLLECTIONS):
        workflow.create(f"collection-{i}", model, tiny.WHOLE)
    submitted = [workflow.submit(f"collection-{i % COLLECTIONS}", records) for i, records in enumerate(work)]
    for batch_id in submitted:
        workflow.approve(batch_id)
    workers = [stack.fork_server.worker() for _ in range(WORKERS)]
    spent = _all_spent(stack, workers)
    until = time.monotonic() + PATIENCE_SECONDS
    while left := len(workflow.unfinished(submitted)):
        advance(len(work) - left, len(work))
        if "early" not in measured.memory_mb and len(work) - left >= EARLY * len(work):
            measured.memory_mb["early"] = _memory(workers)
        stack.fork_server.look(0.5)
        for worker in workers:
            if not worker.alive or time.monotonic() > until:
                raise BenchBroken(f"A worker ended, or took too long. Its log ends:\n{tail(worker.log)}")
    measured.memory_mb["end"] = _memory(workers)
    measured.memory_mb.setdefault("early", measured.memory_mb["end"])  # too few batches for an early measurement
    after = _all_spent(stack, workers)
    measured.cpu_seconds = {name: round(after[name] - before, 1) for name, before in spent.items()}
    advance(len(work), len(work))
    _read_jobs(stack, submitted, measured)
    measured.states = dict(Counter(workflow.states(submitted).values()))
    measured.findings = invariants.of_batches(stack.sessions, submitted)
    end_all(stack, workers)


def _read_jobs(stack: Stack, batches: Sequence[int], measured: Throughput) -> None:
    stage = func.jsonb_each_text(Job.timings).table_valued("key", "value", name="stage")
    with stack.sessions() as session:
        mine = Job.batch_id.in_(batches), Job.state == JobState.SUCCEEDED
        taken = func.extract("epoch", func.max(Job.finished_at) - func.min(Job.started_at))
        seconds = float(session.execute(select(taken).where(*mine)).scalar_one())
        sums = select(stage.c.key, func.sum(cast(stage.c.value, Float))).select_from(Job).join(stage, true())
        rows = session.execute(sums.where(*mine).group_by(stage.c.key)).all()
        reports = session.scalars(select(Job.report).where(*mine)).all()
    measured.stages = {name: round(spent, 2) for name, spent in rows}
    measured.queue_rate = measured.edits / seconds
    measured.reproduced["queue"] = sum(each["reproduced"] for report in reports for each in report) / measured.edits


def _memory(workers: Sequence[Child]) -> list[float]:
    return [round(psutil.Process(worker.pid).memory_info().rss / BYTES_PER_MB, 1) for worker in workers]


def end_all(stack: Stack, workers: Sequence[Child]) -> None:
    for worker in workers:
        worker.send(signal.SIGTERM)
    for worker in workers:
        stack.fork_server.wait(worker, 20)


def idle_share(stack: Stack, seconds: float, advance: Callable[[int, int], None]) -> float:
    """Return the share of a core that a worker without jobs takes."""
    worker = stack.fork_server.worker()
    _wait(stack, min(SETTLE_SECONDS, seconds), lambda _: None)
    process = psutil.Process(worker.pid)
    before, started = _spent(process), time.monotonic()
    _wait(stack, seconds, lambda gone: advance(int(gone), int(seconds)))
    share = (_spent(process) - before) / (time.monotonic() - started)
    end_all(stack, [worker])
    return share


def _all_spent(stack: Stack, workers: Sequence[Child]) -> dict[str, float]:
    """Return CPU seconds by program. Closed connections of PostgreSQL count in its first process."""
    of = {program.part.name: program.pid for program in (stack.postgres, stack.valkey, stack.relay)}
    spent = {name: _spent(psutil.Process(pid)) for name, pid in of.items()}
    return spent | {"workers": sum(_spent(psutil.Process(worker.pid)) for worker in workers)}


def _spent(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children, including those that have ended."""
    return sum(sum(each.cpu_times()[:4]) for each in [process, *process.children(recursive=True)])


def _wait(stack: Stack, seconds: float, tell: Callable[[float], None]) -> None:
    started = time.monotonic()
    while (gone := time.monotonic() - started) < seconds:
        tell(gone)
        stack.fork_server.look(1)
