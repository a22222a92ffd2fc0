"""What a worker is, and how it keeps a job while it works on it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from melo_core.training import Progress
from registry.errors import LeaseLost
from registry.jobs import service as jobs
from registry.jobs.service import Claim
from worker.shelf import Shelf

log = structlog.get_logger()

CURVE_POINTS = 500  # of a loss curve that are kept
NOTES = 20  # the last that are kept


class Stopped(Exception):
    """The worker was told to stop: the job goes back to the queue."""


@dataclass(frozen=True)
class Worker:
    """Who trains, and with what."""

    name: str
    sessions: sessionmaker[Session]
    shelf: Shelf
    lease_seconds: float
    libraries: dict[str, str]
    stopping: threading.Event = field(default_factory=threading.Event)  # set from outside, to stop after this step


@dataclass
class Watch:
    """What the job is at, for its heartbeat; and the seconds that each stage took."""

    progress: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    loss_curve: list[list[float | None]] = field(default_factory=list)  # seconds since the training began, loss
    stage_started: float = 0.0
    lost: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.may_go_on()
        self.progress = self.progress | {"stage": name}
        self.stage_started = time.monotonic()
        yield
        self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - self.stage_started, 3)

    def trained(self, progress: Progress) -> None:
        self.may_go_on()
        loss = round(progress.loss, 5) if math.isfinite(progress.loss) else None  # JSON has no NaN
        self.loss_curve.append([round(time.monotonic() - self.stage_started, 3), loss])
        left = progress.seconds / progress.done * (progress.total - progress.done) if progress.done else None
        self.progress = self.progress | {
            "done": progress.done,
            "total": progress.total,
            "loss": loss,
            "seconds_left": left and round(left, 1),
        }

    def calibrated(self, done: int, total: int) -> None:
        self._count("calibrated", "calibrate_total", done, total)

    def compared(self, done: int, total: int) -> None:
        self._count("compared", "compare_total", done, total)

    def asked(self, done: int, total: int) -> None:
        self._count("asked", "ask_total", done, total)

    def checked(self, done: int, total: int) -> None:
        self._count("checked", "check_total", done, total)

    def _count(self, of: str, out_of: str, done: int, total: int) -> None:
        self.may_go_on()
        self.progress = self.progress | {of: done, out_of: total}

    def note(self, text: str) -> None:
        """Say something to whoever looks at the batch."""
        log.info("note", text=text)
        self.progress = self.progress | {"notes": [*self.progress.get("notes", ()), text][-NOTES:]}

    def thinned_curve(self) -> list[list[float | None]]:
        """At most CURVE_POINTS of the loss curve, evenly taken, with its end."""
        step = math.ceil(len(self.loss_curve) / CURVE_POINTS) or 1
        return self.loss_curve[::-step][::-1]

    def may_go_on(self) -> None:
        """Raise LeaseLost or Stopped where there is no point in going on, or no time for it."""
        if self.stopping.is_set():
            raise Stopped
        if self.lost.is_set():
            raise LeaseLost("The lease ran out, or the job was cancelled.", "Whoever holds it now will finish it.")


@contextmanager
def kept(worker: Worker, claim: Claim) -> Iterator[Watch]:
    """Keep the lease alive from a second thread, and show the progress there."""
    watch, ended = Watch(stopping=worker.stopping), threading.Event()

    def beat() -> None:
        while not ended.wait(min(1.0, worker.lease_seconds / 4)):
            try:
                with worker.sessions.begin() as session:
                    is_kept = jobs.heartbeat(session, claim, watch.progress)
            except OperationalError as error:  # it may be back before the lease ends
                log.warning("the database does not answer", error=str(error.orig))
                continue
            if not is_kept:
                watch.lost.set()
                return

    thread = threading.Thread(target=beat, daemon=True, name=f"lease-of-job-{claim.job_id}")
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
