"""Jobs from claim to end: a named one, or any that waits. Every step may run twice, and no failure ends the worker."""

from collections.abc import Sequence

import structlog

from registry.base.database import UNREACHABLE
from registry.base.vocabulary import JobKind
from registry.jobs import service as jobs
from registry.jobs.claiming import Claim
from worker.applying import apply
from worker.failures import STILL_TO_DO, answered_for, give_back
from worker.fault_points import FaultPoint
from worker.group import Prepared, prepare, train_all
from worker.interrupting import asked_by_models
from worker.preflight import run_preflight
from worker.retry import patiently
from worker.watch import Watch, Worker, kept

log = structlog.get_logger()

ASK_AGAIN_SECONDS = 0.2  # where other workers hold all jobs there are just now


def run_job(worker: Worker, job_id: int) -> None:
    """Do a job if it is free: do its batch's preflight, or train and apply it."""
    with worker.sessions.begin() as session:
        claim = jobs.claim(
            session,
            job_id,
            worker=worker.name,
            device=worker.model_cache.device_name,
            libraries=worker.facts,
            lease_seconds=worker.lease_seconds,
        )
    if claim is None:
        log.info("nothing to do", job=job_id)
        return
    _work_on(worker, [claim])


def run_waiting(worker: Worker) -> int:
    """Work until no job is left for this worker, or it is told to stop. Returns how many jobs it held."""
    worker.at(FaultPoint.WOKEN)
    held = 0
    while not worker.stop.asked and (claims := _claimed(worker)):
        _work_on(worker, claims)
        held += len(claims)
    return held


def _claimed(worker: Worker) -> list[Claim]:
    def claim() -> list[Claim] | None:
        with worker.sessions.begin() as session:
            claims = jobs.claim_next(
                session,
                worker=worker.name,
                device=worker.model_cache.device_name,
                libraries=worker.facts,
                lease_seconds=worker.lease_seconds,
                models=worker.models,
                loaded=worker.model_cache.loaded,
            )
            if claims:
                worker.at(FaultPoint.CLAIMING)
        return claims

    try:
        while (claims := patiently(worker.stop, claim)) is None and not worker.stop.asked:
            worker.stop.pause(ASK_AGAIN_SECONDS)
        return claims or []
    except UNREACHABLE:  # and told to stop
        return []


def _work_on(worker: Worker, claims: Sequence[Claim]) -> None:
    """One preflight, or trainings of one collection that are trained together and applied in their order."""
    worker.at(FaultPoint.CLAIMED)
    first = claims[0]
    worker.model_cache.begin_peak()
    with (
        structlog.contextvars.bound_contextvars(job=first.job_id, batch=first.batch_id, attempt=first.attempt),
        kept(worker, claims) as watches,
        asked_by_models(lambda: _require_wanted(watches)),
    ):
        for watch in watches:
            worker.metrics.claimed(watch.claim.kind, watch.waited_seconds)
        if first.kind is JobKind.PREFLIGHT:
            with answered_for(worker, watches[0]), watches[0].working():
                run_preflight(worker, first, watches[0])
        else:
            _train_and_apply(worker, watches)


def _require_wanted(watches: Sequence[Watch]) -> None:
    """Raise, as `Watch.may_go_on`, where none of the jobs is wanted any more: one that still is, must not pay."""
    left = [watch for watch in watches if watch.outcome is None]
    if left and (len(left) == 1 or all(watch.lost.is_set() for watch in left)):
        left[0].may_go_on()


def _train_and_apply(worker: Worker, watches: Sequence[Watch]) -> None:
    prepared = list[Prepared]()
    for watch in watches:
        with answered_for(worker, watch), watch.working():
            prepared.append(prepare(worker, watch))
        if watch.outcome in STILL_TO_DO:
            break
    _hold_up(worker, watches)
    train_all(worker, [each for each in prepared if each.is_left])
    _hold_up(worker, watches)
    for each in prepared:
        if each.is_left:
            with (
                structlog.contextvars.bound_contextvars(**each.watch.named),
                answered_for(worker, each.watch),
                each.watch.working(),
            ):
                apply(worker, each)
            _hold_up(worker, watches)


def _hold_up(worker: Worker, watches: Sequence[Watch]) -> None:
    """Give back what comes after a job that is still to be done: a collection's batches are applied in their order."""
    waits: Watch | None = None
    for watch in watches:
        if waits is not None and watch.outcome is None:
            give_back(worker, watch, f"batch {waits.claim.batch_id}, which comes before it, is not done yet")
        elif watch.outcome in STILL_TO_DO:
            waits = waits or watch
