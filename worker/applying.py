"""The last stages of a training: keys, the index with the new points, changed answers, and the version."""

from functools import partial

import structlog

from registry.base.errors import StaleBase
from registry.jobs import service as jobs
from registry.versions import repository as version_queries
from registry.versions import service as versions
from worker.candidate import candidate
from worker.evaluation import reports_of
from worker.failures import Overtaken
from worker.fault_points import FaultPoint
from worker.group import Prepared
from worker.metrics import Outcome
from worker.scoping import scope_of, stored_blocks
from worker.watch import Worker

log = structlog.get_logger()

APPLY_TRIES = 20  # other versions that may be made while one is being written


def apply(worker: Worker, prepared: Prepared) -> None:
    """Make the version in which the trained edits act. Every step may run twice; only the lease's holder finishes.

    Raises LeaseLost, and Overtaken where other versions keep coming first.
    """
    claim, watch, settings, base = prepared.claim, prepared.watch, prepared.settings, prepared.base
    trained = [prepared.trained[edit.id] for edit in claim.edits]
    with watch.stage("scope"):
        scope = scope_of(worker, claim, settings, watch)
        keys = scope.keys_of([each.edit for each in trained if not each.is_stored])
    worker.at(FaultPoint.SCOPED)
    for _ in range(APPLY_TRIES):
        with watch.stage("index"):
            with worker.sessions() as session:
                latest = version_queries.latest(session, claim.collection_id)
                number = latest.number if latest else 0
                content = version_queries.version_content(session, claim.collection_id, number, block_bytes=False)
            content = prepared.taken.beside(content)
            result = candidate(content, scope, trained, keys)
        worker.at(FaultPoint.INDEXED)
        with watch.stage("evaluate"):
            stored = partial(stored_blocks, worker)
            reports = reports_of(base, scope, trained, content, result, stored, watch.count)
        worker.at(FaultPoint.EVALUATED)
        try:
            with watch.stage("finish"), worker.sessions.begin() as session:
                worker.at(FaultPoint.FINISHING)
                held = jobs.hold(session, claim)
                jobs.write_report(held, reports, watch.progress, prepared.trained_together)
                worker.at(FaultPoint.REPORTED)
                version = versions.apply(
                    session,
                    held,
                    result,
                    timings=watch.timings,
                    loss_curve=watch.thinned_curve(),
                    peak_memory_bytes=worker.model_cache.peak_memory(),
                )
                worker.at(FaultPoint.WRITTEN)
        except StaleBase:
            continue
        watch.outcome = Outcome.APPLIED
        worker.at(FaultPoint.FINISHED)
        worker.metrics.ended(claim.kind, Outcome.APPLIED)
        log.info("applied", version=version.number, edits=len(trained), seconds=watch.timings)
        return
    raise Overtaken(f"other versions of {claim.collection} kept coming first, {APPLY_TRIES} times")
