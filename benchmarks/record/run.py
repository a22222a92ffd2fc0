"""The steps of `melo bench registry`, in order."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record import forgeries, measure
from benchmarks.record.databases import Databases, databases
from benchmarks.record.figures import Figures
from benchmarks.record.generate import generate
from benchmarks.record.signing import cost
from benchmarks.record.synthetic import write_model
from benchmarks.record.writers import CONNECTIONS, write_at_once
from registry.audit.schemas import ProgressView, VerificationView
from registry.base.database import make_engine, make_sessions
from registry.verification import service as verification

TIMES = 50  # of each operation
WRITTEN_VERSIONS, WRITTEN_EDITS = 20, 1_000  # initially in the writers' collection


@dataclass(frozen=True)
class Sizes:
    edits: int
    versions: int
    writers: int
    seconds: float
    submitted: int = measure.SUBMITTED


def run_bench(console: Console, url: str, sizes: Sizes) -> Figures:
    """Run the benchmark.

    url: a database of the server to use; empty: a temporary server. Databases created there are dropped again.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="melo-bench-model-") as folder,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        databases(url) as server,
    ):
        return _Bench(server, write_model(Path(folder)), sizes, progress).run()


@dataclass
class _Bench:
    server: Databases
    model: str
    sizes: Sizes
    progress: Progress

    def run(self) -> Figures:
        sizes = self.sizes
        large = self._sessions("large")
        generated = self._timed(lambda: self._generate(large, sizes.versions, sizes.edits))
        timings = self._operations(large)
        with large() as session:
            tables = measure.sizes(session)
        seconds, verified = self._verify(large)
        gaps, missing = self._counted(large)
        bar = self.progress.add_task(f"submitting {sizes.submitted:,} edits", total=None)
        submission = measure.submission(large, self.model, sizes.submitted)
        self._done(bar)

        bar = self.progress.add_task("signing events", total=None)
        signing = cost(self.server.make("signed"), self.server.make("unsigned"), self.model)
        self._done(bar)

        small = self._sessions("writers", CONNECTIONS)
        self._generate(small, WRITTEN_VERSIONS, WRITTEN_EDITS)
        bar = self.progress.add_task(f"{sizes.writers} writers at once", total=sizes.seconds)
        tally = write_at_once(
            small, sizes.writers, sizes.seconds, lambda gone: self.progress.update(bar, completed=gone)
        )
        self._done(bar)
        _, verified_writers = self._verify(small)
        gaps_of_writers, missing_of_writers = self._counted(small)
        both = [*verified.findings, *verified_writers.findings]
        of_chain = [each for each in both if each.subject.startswith("event")]
        return Figures(
            edits=sizes.edits,
            versions=sizes.versions,
            writers=sizes.writers,
            writer_seconds=sizes.seconds,
            machine=self._machine(large),
            timings=timings,
            bytes_of_tables=tables,
            generate_seconds=round(generated, 1),
            verify_seconds=round(seconds, 1),
            submission=submission,
            signing=signing,
            version_gaps=gaps + gaps_of_writers,
            digest_mismatches=len(both) - len(of_chain),
            events_missing=missing + missing_of_writers,
            chain_ok=not of_chain,
            findings=[f"{each.subject}: {each.detail}" for each in both[:100]],
            tally=tally,
            forgeries=self._forgeries(),
        )

    def _sessions(self, purpose: str, pool_size: int = 10) -> sessionmaker[Session]:
        """Open sessions without a limit on statement times, which are being measured."""
        return make_sessions(make_engine(self.server.make(purpose), 0, pool_size))

    def _generate(self, sessions: sessionmaker[Session], versions: int, edits: int) -> None:
        bar = self.progress.add_task(f"writing {versions:,} versions of {edits:,} edits", total=edits)
        generate(sessions, self.model, versions, edits, lambda count: self.progress.advance(bar, count))
        with sessions() as session:
            # Outside a transaction: a server that has run for long has done this by itself.
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(text("VACUUM ANALYZE"))
        self._done(bar)

    def _operations(self, sessions: sessionmaker[Session]) -> dict[str, measure.Timing]:
        bar = self.progress.add_task("measuring", total=None)
        timings = measure.operations(
            sessions,
            self.sizes.versions,
            TIMES,
            lambda name: self.progress.update(bar, description=f"measuring {name}"),
        )
        self._done(bar)
        return timings

    def _verify(self, sessions: sessionmaker[Session]) -> tuple[float, VerificationView]:
        bar = self.progress.add_task("verifying", total=None)
        start = time.perf_counter()
        with sessions.begin() as session:
            for step in verification.verify_in_steps(session):
                if isinstance(step, ProgressView):
                    told = f"verifying {step.verifying}: {step.verified:,}"
                    self.progress.update(bar, description=told)
        assert isinstance(step, VerificationView)
        self._done(bar)
        return time.perf_counter() - start, step

    def _counted(self, sessions: sessionmaker[Session]) -> tuple[int, int]:
        with sessions() as session:
            return measure.gaps(session), measure.events_missing(session)

    def _forgeries(self) -> dict[str, bool]:
        bar = self.progress.add_task("forging", total=len(forgeries.FORGERIES))
        caught = forgeries.try_all(
            self.server,
            self.model,
            lambda what: self.progress.update(bar, advance=1, description=f"forging: {what}"),
        )
        self._done(bar)
        return caught

    def _done(self, bar: TaskID) -> None:
        """Complete a progress bar, even if its task ended early."""
        task = self.progress.tasks[bar]
        self.progress.update(bar, total=task.total or 1, completed=task.total or 1)
        self.progress.stop_task(bar)

    def _machine(self, sessions: sessionmaker[Session]) -> dict[str, Any]:
        with sessions() as session:
            version = session.execute(text("SELECT version()")).scalar_one()
        return {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version(),
                "postgres": version}  # fmt: skip

    @staticmethod
    def _timed(act: Callable[[], None]) -> float:
        start = time.perf_counter()
        act()
        return time.perf_counter() - start
