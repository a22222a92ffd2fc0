"""A training job from claim to version. Every step may run twice; only the holder of the lease can finish."""

import math
import resource
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import torch
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from melo_core.block import Block
from melo_core.encoder import KeyEncoder
from melo_core.errors import MeloError
from melo_core.settings import MethodSettings
from melo_core.training import Progress
from registry.errors import InvalidRequest, LeaseLost, RegistryError, StaleBase
from registry.jobs import service as jobs
from registry.jobs.service import Claim
from registry.versions import repository as version_queries
from registry.versions import service as versions
from worker.candidate import Scope, candidate
from worker.checking import check_unchanged, edit_reports, require_askable, unchanged_keys
from worker.shelf import Shelf
from worker.training import train_edits

log = structlog.get_logger()

APPLY_TRIES = 20  # versions that others may make while one is being written
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


def run_job(worker: Worker, job_id: int) -> None:
    """Train a job if it is free, and apply it. A failure that would come again ends the job with its reason.

    What may pass (a database that does not answer, say) is raised: the lease runs out and the job is sent again.
    """
    with worker.sessions.begin() as session:
        claim = jobs.claim(
            session,
            job_id,
            worker=worker.name,
            device=str(worker.shelf.device),
            libraries=worker.libraries | {"dtype": worker.shelf.dtype},
            lease_seconds=worker.lease_seconds,
        )
    if claim is None:
        log.info("nothing to do", job=job_id)
        return
    with structlog.contextvars.bound_contextvars(job=job_id, batch=claim.batch_id, attempt=claim.attempt):
        try:
            with _kept(worker, claim) as watch:
                _train_and_apply(worker, claim, watch)
        except LeaseLost:
            log.warning("the lease was lost: the result is thrown away")
        except Stopped:
            with worker.sessions.begin() as session:
                jobs.give_back(session, claim)
            log.info("stopped: the job was given back")
        except OperationalError:
            log.exception("the database does not answer: the job will be sent again")
            raise
        except (MeloError, RegistryError) as error:
            _fail(worker, claim, str(error))
        except Exception as error:
            log.exception("unexpected")
            _fail(worker, claim, f"unexpected {type(error).__name__}: {error}; the worker's log has more")
            raise


@dataclass
class _Watch:
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

    def checked(self, done: int, total: int) -> None:
        self.may_go_on()
        self.progress = self.progress | {"checked": done, "check_total": total}

    def note(self, text: str) -> None:
        """Say something to whoever looks at the batch."""
        log.info("note", text=text)
        self.progress = self.progress | {"notes": [*self.progress.get("notes", ()), text][-NOTES:]}

    def may_go_on(self) -> None:
        """Raise LeaseLost or Stopped where there is no point in going on, or no time for it."""
        if self.stopping.is_set():
            raise Stopped
        if self.lost.is_set():
            raise LeaseLost("The lease ran out while training.", "Whoever holds the job now will finish it.")


@contextmanager
def _kept(worker: Worker, claim: Claim) -> Iterator[_Watch]:
    """Keep the lease alive from a second thread, and show the progress there."""
    watch, ended = _Watch(stopping=worker.stopping), threading.Event()

    def beat() -> None:
        while not ended.wait(min(1.0, worker.lease_seconds / 4)):
            try:
                with worker.sessions.begin() as session:
                    kept = jobs.heartbeat(session, claim, watch.progress)
            except OperationalError as error:  # it may be back before the lease ends
                log.warning("the database does not answer", error=str(error.orig))
                continue
            if not kept:
                watch.lost.set()
                return

    thread = threading.Thread(target=beat, daemon=True, name=f"lease-of-job-{claim.job_id}")
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def _train_and_apply(worker: Worker, claim: Claim, watch: _Watch) -> None:
    settings = MethodSettings.from_json(claim.settings)
    with watch.stage("load"):
        base = worker.shelf.base(claim.model, claim.model_digest)
        require_askable(base, claim.edits)
        _encoder(worker, claim, settings)  # what does not fit the model is refused before anything is trained
    with watch.stage("train"):
        trained = train_edits(base, settings, claim.edits, watch.trained, watch.note)
    with watch.stage("scope"):
        scope = _scope(worker, claim, settings, watch)
        keys = scope.keys_of(claim.edits)
        unchanged = unchanged_keys(scope, claim.edits)
    for _ in range(APPLY_TRIES):
        with watch.stage("index"), worker.sessions() as session:
            latest = version_queries.latest(session, claim.collection_id)
            number = latest.number if latest else 0
            content = version_queries.version_content(session, claim.collection_id, number, block_bytes=False)
        result = candidate(content, settings, scope, trained, keys)
        with watch.stage("check"):
            stored = partial(_stored_blocks, worker)
            changed = check_unchanged(base, settings, unchanged, content, result, stored, watch.checked)
            standing = {edit.id: edit.prompt for edit in content.edits.values()}
            reports = edit_reports(trained, result.overlaps, standing, changed)
        try:
            with worker.sessions.begin() as session:
                jobs.write_report(session, claim, reports, watch.progress)
                version = versions.apply(
                    session,
                    claim,
                    result,
                    timings=watch.timings,
                    loss_curve=_thinned(watch.loss_curve),
                    peak_memory_bytes=_peak_memory(worker.shelf.device),
                )
        except StaleBase:
            continue
        log.info("applied", version=version.number, edits=len(trained), seconds=watch.timings)
        return
    raise InvalidRequest(
        f"Other versions of {claim.collection} kept coming first, {APPLY_TRIES} times.",
        "Approve the batch again.",
    )


def _encoder(worker: Worker, claim: Claim, settings: MethodSettings) -> tuple[KeyEncoder, str]:
    with worker.sessions() as session:
        calibration = version_queries.collection_content(session, claim.collection_id).calibration
    return worker.shelf.encoder_of(claim, settings, calibration)


def _scope(worker: Worker, claim: Claim, settings: MethodSettings, watch: _Watch) -> Scope:
    """The collection's encoder with its whitening, which the first job of a collection fits."""
    encoder, digest = _encoder(worker, claim, settings)
    fitted = None
    if settings.whitened and encoder.whitening is None:

        def calibrated(done: int, total: int) -> None:
            watch.may_go_on()
            watch.progress = watch.progress | {"calibrated": done, "calibrate_total": total}

        fitted = worker.shelf.fitted_whitening(encoder, digest, settings.whiten_epsilon, calibrated)
    return Scope(encoder, digest, fitted)


def _stored_blocks(worker: Worker, block_ids: Collection[int]) -> dict[int, Block]:
    with worker.sessions() as session:
        found = version_queries.blocks_by_ids(session, block_ids, with_bytes=True)
    return {block.id: Block.from_bytes(block.data or b"") for block in found.values()}


def _thinned(curve: list[list[float | None]]) -> list[list[float | None]]:
    """At most CURVE_POINTS of the curve, evenly taken, with its end."""
    step = math.ceil(len(curve) / CURVE_POINTS) or 1
    return curve[::-step][::-1]


def _fail(worker: Worker, claim: Claim, reason: str) -> None:
    log.error("failed", reason=reason)
    try:
        with worker.sessions.begin() as session:
            jobs.fail(session, claim, reason)
    except LeaseLost:
        log.warning("the lease was lost before the failure could be recorded")


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
