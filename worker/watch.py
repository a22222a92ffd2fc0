"""The worker, and the watch that keeps its jobs' leases while it works on them."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
import torch
from sqlalchemy.orm import Session, sessionmaker

from melo_core.base_model import BaseModel
from melo_core.converted import Advance, Converting
from melo_core.training import Progress as Trained
from registry.base.database import UNREACHABLE
from registry.base.errors import LeaseLost, first_line
from registry.base.vocabulary import JobKind
from registry.jobs import service as jobs
from registry.jobs.budget import PreflightBudget
from registry.jobs.claiming import Claim, not_ready
from registry.jobs.schemas import Progress
from worker.fault_points import FaultPoint, passing
from worker.limits import OutOfTime
from worker.metrics import Outcome, WorkerMetrics
from worker.model_cache import ModelCache
from worker.stopping import Stop, Stopped

log = structlog.get_logger()

CURVE_POINTS = 500  # kept of a loss curve
NOTES = 20  # the last ones, which are kept
STUCK_SECONDS = 60.0  # past its time limit, after which a job that reaches no step is taken from its process
STOP_GRACE_SECONDS = 0.5  # the same for a worker that was told to stop


@dataclass(frozen=True)
class Worker:
    """A worker and its resources."""

    name: str
    sessions: sessionmaker[Session]
    model_cache: ModelCache
    lease_seconds: float
    libraries: dict[str, str]
    retry_seconds: float = 5
    job_seconds: float = 6 * 3600
    preflight: PreflightBudget = field(default_factory=PreflightBudget)
    models: frozenset[str] | None = None  # digests of the base models to work for; None: all
    stop: Stop = field(default_factory=Stop)
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics.make)
    at: Callable[[FaultPoint], None] = passing  # called at every fault point

    @property
    def facts(self) -> dict[str, str]:
        """The facts besides settings and device that a job's result may depend on."""
        return self.libraries | {"dtype": self.model_cache.dtype, "threads": str(torch.get_num_threads())}

    def base(self, claim: Claim, converting: Converting | None = None) -> BaseModel:
        """Return the claim's base model. Raises UnknownModel. converting: shows a conversion of its file."""
        started, known = time.monotonic(), self.model_cache.loaded
        base = self.model_cache.base(claim.model, claim.model_digest, claim.model_files, converting)
        if known != self.model_cache.loaded:
            self.metrics.loaded(time.monotonic() - started)
        return base


@dataclass
class Watch:
    """The state of a job in work, for its heartbeat: progress, the seconds of each stage, and finally the outcome."""

    worker: Worker
    claim: Claim
    used: float = 0.0  # seconds of finished work
    working_since: float | None = None  # time.monotonic(); None: the worker is on another job of the group
    share: float = 1.0  # of the current work
    progress: Progress = field(default_factory=Progress)
    timings: dict[str, float] = field(default_factory=dict)
    loss_curve: list[list[float | None]] = field(default_factory=list)  # seconds since the training began, loss
    stage_started: float = 0.0
    claimed: float = field(default_factory=time.monotonic)
    lost: threading.Event = field(default_factory=threading.Event)
    outcome: Outcome | None = None

    @property
    def named(self) -> dict[str, int]:
        """Fields that identify the job in the log."""
        return {"job": self.claim.job_id, "batch": self.claim.batch_id, "attempt": self.claim.attempt}

    @property
    def budget(self) -> PreflightBudget:
        """The most that the job may take if it is a preflight."""
        return self.worker.preflight.lowered(self.claim.preflight_limits)

    @property
    def seconds_allowed(self) -> float:
        """The longest time of the job: less where nobody has approved its batch."""
        most = self.worker.job_seconds
        return min(most, self.budget.seconds) if self.claim.kind is JobKind.PREFLIGHT else most

    @property
    def now(self) -> datetime:
        """The time by the database's clock: this machine's may differ from it."""
        return self.claim.claimed_at + timedelta(seconds=time.monotonic() - self.claimed)

    @property
    def waited_seconds(self) -> float:
        """Seconds since the job was queued."""
        return (self.claim.claimed_at - self.claim.queued_at).total_seconds()

    @contextmanager
    def working(self, share: float = 1.0) -> Iterator[None]:
        """Count the time as this job's. share: its part, where several jobs are worked on in one go.

        Work on other jobs of a group does not count towards this job's time limit.
        """
        self.share, self.working_since = share, time.monotonic()
        try:
            yield
        finally:
            # In this order: the heartbeat's thread reads both, and must not count a time twice.
            used, self.working_since = self.used + share * self.running, None
            self.used = used

    @property
    def running(self) -> float:
        """Seconds since the current work began, regardless of the job's share."""
        since = self.working_since
        return 0.0 if since is None else time.monotonic() - since

    def anew(self) -> None:
        """Discard a failed training: the job's time and its loss curve start again."""
        self.used = 0.0
        self.loss_curve.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.begin(name)
        yield
        self.took(name, time.monotonic() - self.stage_started)

    def begin(self, name: str) -> None:
        self.may_go_on()
        self.progress = Progress(stage=name, notes=self.progress.notes)
        self.stage_started = time.monotonic()

    def took(self, name: str, seconds: float) -> None:
        self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 3)
        self.worker.metrics.stage(self.claim.kind, name, seconds)

    def trained(self, progress: Trained, share: float = 1.0) -> None:
        """Note the progress of training. share: this job's part of the edits trained together."""
        self.may_go_on()
        loss = round(progress.loss, 5) if math.isfinite(progress.loss) else None  # JSON has no NaN
        self.loss_curve.append([round(time.monotonic() - self.stage_started, 3), loss])
        self._say(
            done=int(progress.done * share),
            total=round(progress.total * share),
            loss=loss,
            seconds_left=None if progress.seconds_left is None else round(progress.seconds_left, 1),
        )
        if len(self.loss_curve) == 1:
            self.worker.at(FaultPoint.TRAINING)

    def count(self, done: int, total: int) -> None:
        """Note how much of the stage is done."""
        self.may_go_on()
        self._say(done=done, total=total)

    @contextmanager
    def converting(self) -> Iterator[Advance]:
        """Show the conversion of the model's file to the batch's readers, and on the worker's own terminal."""
        stage = self.progress.stage
        with self.worker.model_cache.converting() as line:

            def advance(done: int, total: int) -> None:
                line(done, total)
                self.count(done, total)

            self._say(stage="convert")
            yield advance
        self._say(stage=stage, done=None, total=None)

    def note(self, text: str) -> None:
        """Add a message for the batch's readers."""
        log.info("note", text=text)
        self._say(notes=[*self.progress.notes, text][-NOTES:])

    def _say(self, **changes: Any) -> None:
        """Replace the progress as a whole: the heartbeat's thread reads it at any time."""
        self.progress = self.progress.model_copy(update=changes)

    def thinned_curve(self) -> list[list[float | None]]:
        """Return at most CURVE_POINTS of the loss curve, evenly spaced, including its end."""
        step = math.ceil(len(self.loss_curve) / CURVE_POINTS) or 1
        return self.loss_curve[::-step][::-1]

    def may_go_on(self) -> None:
        """Raise Stopped, LeaseLost, OutOfTime or PastDeadline where there is no point in continuing, or no time."""
        if self.worker.stop.is_due():
            raise Stopped("the worker stops")
        if self.lost.is_set():
            raise LeaseLost(
                "The lease ran out, or the job was cancelled.", "The worker that holds it now will finish it."
            )
        if self.overran():
            raise self.out_of_time()
        deadline = self.claim.deadline if self.claim.kind is JobKind.TRAIN else None
        if deadline is not None and self.now > deadline:
            raise not_ready(self.claim)

    def overran(self) -> bool:
        return self.used + self.share * self.running > self.seconds_allowed

    def is_stuck(self) -> bool:
        """Tell whether the current work should have ended, or reached a step, long ago."""
        return self.working_since is not None and self.used + self.running > self.seconds_allowed + STUCK_SECONDS

    def out_of_time(self) -> OutOfTime:
        if self.seconds_allowed < self.worker.job_seconds:
            return OutOfTime(
                f"The preflight took longer than the {self.seconds_allowed:g} s that a batch may take before anybody "
                "has approved it.",
                "Decide without it, submit the edits in smaller batches, or raise the limit: MELO_PREFLIGHT_SECONDS, "
                "and the limits of the collection's policy.",
            )
        return OutOfTime(
            f"The job took longer than MELO_JOB_SECONDS={self.worker.job_seconds:g}.",
            "Submit its edits in smaller batches, or let jobs take longer.",
        )


@contextmanager
def kept(worker: Worker, claims: Sequence[Claim]) -> Iterator[list[Watch]]:
    """Renew the leases from a second thread, and publish the progress there."""
    watches, ended = [Watch(worker, claim) for claim in claims], threading.Event()

    def beat() -> None:
        while not ended.wait(min(1.0, worker.lease_seconds / 4)):
            _beat(watches)

    thread = threading.Thread(target=beat, daemon=True, name=f"lease-of-job-{claims[0].job_id}")
    thread.start()
    try:
        yield watches
    finally:
        ended.set()
        thread.join()


def _beat(watches: Sequence[Watch]) -> None:
    """Renew each lease. No error ends the thread: failures are logged where they occur, and even the log may run out of
    memory.
    """
    for watch in watches:
        if watch.outcome is None and not watch.lost.is_set():
            with suppress(Exception):
                _renew(watch)
    with suppress(Exception):
        _take_from_the_stuck(watches)


def _renew(watch: Watch) -> None:
    try:
        with watch.worker.sessions.begin() as session:
            is_kept = jobs.heartbeat(session, watch.claim, watch.progress)
    except Exception as error:  # the cause may pass before the lease ends
        unknown = not isinstance(error, UNREACHABLE)
        log.warning("the lease was not renewed", error=first_line(error), exc_info=unknown, **watch.named)
        return
    if not is_kept:
        watch.lost.set()


def _take_from_the_stuck(watches: Sequence[Watch]) -> None:
    """Give back, or end, jobs whose working thread has long reached no step: it cannot do so itself.

    OutOfTime fails only the job that is being worked on. Where that is several, nobody can tell which is to blame: the
    first is tried again and then done by itself. A job that is being written is left alone: that is one short
    transaction.
    """
    left = [watch for watch in watches if watch.outcome is None and not watch.lost.is_set()]
    if not left or any(watch.progress.stage == "finish" for watch in left):
        return
    worker = left[0].worker
    if worker.stop.is_due(STOP_GRACE_SECONDS):
        for watch in left:
            watch.lost.set()
            _record(watch, jobs.give_back)
            log.warning("stuck, and told to stop: the job was given back", **watch.named)
    at_work = [watch for watch in left if watch.working_since is not None]
    if any(watch.is_stuck() for watch in at_work):
        for watch in left:
            watch.lost.set()
            if at_work == [watch]:
                _record(watch, jobs.fail, str(watch.out_of_time()))
            elif watch is at_work[0]:
                _record(watch, jobs.retry_later, "Trained with others, it came to no step.", worker.retry_seconds)
            else:
                _record(watch, jobs.give_back, "the worker ends over another job")
            log.error("stuck, and out of time: this worker ends", **watch.named)
        sys.stdout.flush()
        os._exit(1)  # nothing else ends a thread that does not respond


def _record(watch: Watch, act: Callable[..., object], *given: object) -> None:
    """Call a change of the job with a session and its claim."""
    try:
        with watch.worker.sessions.begin() as session:
            act(session, watch.claim, *given)
    except Exception as error:
        unknown = not isinstance(error, (LeaseLost, *UNREACHABLE))
        log.warning("it could not be recorded", error=first_line(error), exc_info=unknown, **watch.named)
