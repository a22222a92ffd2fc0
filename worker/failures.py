"""Failures of a job: retried later where the cause may pass, else the job ends with the reason."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import redis
import structlog
from sqlalchemy.exc import DBAPIError

from melo_core.errors import MeloError
from melo_core.memory import is_out_of_memory
from registry.base.database import UNREACHABLE
from registry.base.errors import LeaseLost, RegistryError, first_line, is_disk_full
from registry.base.vocabulary import JobState
from registry.jobs import repository
from registry.jobs import service as jobs
from worker.fault_points import FaultPoint
from worker.metrics import Outcome
from worker.retry import STOP_TRIES_SECONDS, patiently
from worker.stopping import Stopped
from worker.watch import Watch, Worker

log = structlog.get_logger()

# The job is still to be done: no later job of its collection may be applied before it.
STILL_TO_DO = (Outcome.RETRIED, Outcome.GIVEN_BACK, Outcome.LOST)
# OSErrors that last: a missing or forbidden file will still be so in a minute.
LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class Overtaken(Exception):
    """Other versions kept being made first; later there may be fewer."""


def may_pass(error: Exception) -> bool:
    """Tell whether the same job may succeed later: the database, network, disk or memory was unavailable."""
    if isinstance(error, (RegistryError, MeloError, *LASTING)):
        return False
    passing = (*UNREACHABLE, Overtaken, redis.RedisError, httpx.TransportError, OSError)
    return isinstance(error, passing) or is_out_of_memory(error) or is_disk_full(error)


@contextmanager
def answered_for(worker: Worker, watch: Watch) -> Iterator[None]:
    """Turn any error inside into the end or release of this one job; `watch.outcome` says which."""
    try:
        yield
    except Exception as error:
        with structlog.contextvars.bound_contextvars(**watch.named):
            watch.outcome = _outcome(worker, watch, error)
            worker.metrics.ended(watch.claim.kind, watch.outcome)


def give_back(worker: Worker, watch: Watch, why: str) -> None:
    """Put the job back in the queue for another worker."""
    with answered_for(worker, watch):
        raise Stopped(why)


def _outcome(worker: Worker, watch: Watch, error: Exception) -> Outcome:
    try:
        if isinstance(error, LeaseLost):
            return _lost(worker, watch)
        if isinstance(error, Stopped):
            patiently(worker.stop, lambda: _give_back(worker, watch, str(error)), STOP_TRIES_SECONDS)
            log.info("the job was given back", why=str(error))
            return Outcome.GIVEN_BACK
        if may_pass(error):
            log.warning("failed, which may pass", error=first_line(error), exc_info=not isinstance(error, UNREACHABLE))
            again = patiently(worker.stop, lambda: _retry_later(worker, watch, error), watch.claim.lease_seconds)
            return Outcome.RETRIED if again else Outcome.FAILED
        if isinstance(error, RegistryError | MeloError):
            reason = str(error)
            # The job has the reason. That of the method may quote an edit, which can be erased there and not in a log.
            log.error("failed", kind=type(error).__name__, **_without_texts(error))
        else:
            log.exception("unexpected", exc_info=error)
            reason = f"unexpected {type(error).__name__}: {error}; the worker's log has more"
        patiently(worker.stop, lambda: _fail(worker, watch, reason), watch.claim.lease_seconds)
    except LeaseLost:
        return _lost(worker, watch)
    except UNREACHABLE as away:
        log.warning("nothing could be recorded: the lease runs out", error=first_line(away))
        return Outcome.LOST
    return Outcome.FAILED


def _give_back(worker: Worker, watch: Watch, why: str) -> None:
    with worker.sessions.begin() as session:
        jobs.give_back(session, watch.claim, why)
        worker.at(FaultPoint.GIVING_BACK)


def _retry_later(worker: Worker, watch: Watch, error: Exception) -> bool:
    """Put the job back for later; return False where that was its last attempt and it has failed."""
    with worker.sessions.begin() as session:
        again = jobs.retry_later(session, watch.claim, _told(error), worker.retry_seconds)
        worker.at(FaultPoint.FAILING)
    worker.at(FaultPoint.FAILED)
    return again


def _fail(worker: Worker, watch: Watch, reason: str) -> None:
    with worker.sessions.begin() as session:
        jobs.fail(session, watch.claim, reason)
        worker.at(FaultPoint.FAILING)
    worker.at(FaultPoint.FAILED)


def _lost(worker: Worker, watch: Watch) -> Outcome:
    """Return whether the job was cancelled or is held by another worker; either way its result is discarded."""
    try:
        with worker.sessions() as session:
            job = repository.by_id(session, watch.claim.job_id)
    except UNREACHABLE:
        return Outcome.LOST
    if job is not None and job.state == JobState.CANCELLED:
        log.info("the job was cancelled: the result is thrown away")
        return Outcome.CANCELLED
    log.warning("the lease was lost: the result is thrown away")
    return Outcome.LOST


def _without_texts(error: Exception) -> dict[str, str]:
    return {"reason": str(error)} if isinstance(error, RegistryError) else {}


def _told(error: Exception) -> str:
    """Describe an error for people; a database error without its statement, which may contain an edit."""
    if isinstance(error, DBAPIError):
        return f"the database: {error.orig}".strip()
    if is_disk_full(error):
        return f"the worker's disk is full; free some space, or set MELO_CACHE to a folder that has some ({error})"
    return f"{type(error).__name__}: {error}"
