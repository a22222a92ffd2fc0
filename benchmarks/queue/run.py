"""The steps of `melo bench queue`: rounds of faults, then throughput and idle workers, each on a stack of its own."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.machine import machine
from benchmarks.queue import invariants, throughput, tiny
from benchmarks.queue.faults import schedule
from benchmarks.queue.figures import Figures
from benchmarks.queue.rounds import Rounds, Tally
from benchmarks.queue.stack import HASTE, Stack
from benchmarks.queue.workers import BenchBroken
from cli.errors import CommandError
from embedded.errors import EmbeddedError


@dataclass(frozen=True)
class Choice:
    rounds: int
    edits: int
    batches: int
    seed: int
    idle_seconds: float


def run_bench(console: Console, choice: Choice) -> Figures:
    """Run the benchmark. Raises CommandError where it cannot continue."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the stack is stopped too
    console.print(f"seed {choice.seed}")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    figures = Figures(choice.seed, choice.rounds, machine(torch.device("cpu")), Tally())
    started = time.monotonic()
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            if choice.rounds:
                _faults(choice, figures, progress)
            if choice.edits or choice.idle_seconds:
                _speed(choice, figures, progress)
    except (BenchBroken, EmbeddedError) as error:
        raise CommandError("The bench cannot go on", str(error)) from None
    figures.seconds = time.monotonic() - started
    return figures


@contextmanager
def _stack(progress: Progress, haste: Mapping[str, float]) -> Iterator[tuple[Stack, str]]:
    """Run a stack in a folder of its own; yield it and the tiny model's folder."""
    with tempfile.TemporaryDirectory(prefix="melo-bench-queue-") as name:
        task = progress.add_task("starting PostgreSQL, Valkey and the relay", total=None)
        folder = Path(name).resolve()
        model = tiny.write_model(folder / "model")
        with Stack(folder, haste).running() as running:
            progress.remove_task(task)
            yield running, model


def _faults(choice: Choice, figures: Figures, progress: Progress) -> None:
    with _stack(progress, HASTE) as (stack, model):
        rounds = Rounds(stack, model, choice.seed, figures.tally)
        task = progress.add_task("rounds", total=choice.rounds)
        for number, plan in enumerate(schedule(choice.seed, choice.rounds), 1):
            for wrong in rounds.run(plan).all:
                progress.console.print(f"round {number}: {wrong}", markup=False)
            done = f"rounds, {figures.tally.faults.total()} faults"
            progress.update(task, completed=number, description=done)
        figures.tally.findings += invariants.of_everything(stack.sessions)


def _speed(choice: Choice, figures: Figures, progress: Progress) -> None:
    """Measure throughput and idle cost with a stack's default times."""
    tasks = {}

    def advance(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what)
        progress.update(tasks[what], completed=done, total=of)

    with _stack(progress, {}) as (stack, model):
        if choice.edits:
            measured = throughput.measure(stack, model, choice.edits, choice.batches, choice.seed, advance)
            figures.throughput = measured
            measured.findings += invariants.of_everything(stack.sessions)
        if choice.idle_seconds:
            figures.idle_core_share = throughput.idle_share(
                stack, choice.idle_seconds, lambda *gone: advance("an idle worker", *gone)
            )
