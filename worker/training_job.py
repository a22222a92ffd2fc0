"""A job from claim to end. Every step may run twice; only the holder of the lease can finish."""

from functools import partial

import structlog
from sqlalchemy.exc import OperationalError

from melo_core.errors import MeloError
from melo_core.settings import MethodSettings
from registry.errors import InvalidRequest, LeaseLost, RegistryError, StaleBase
from registry.jobs import service as jobs
from registry.jobs.service import Claim
from registry.versions import repository as version_queries
from registry.versions import service as versions
from registry.vocabulary import JobKind
from worker.candidate import candidate
from worker.check_job import run_check
from worker.checking import check_unchanged, edit_reports, require_askable, unchanged_keys
from worker.scoping import encoder_of, scope_of, stored_blocks
from worker.taken_over import taken_over
from worker.training import train_edits
from worker.watch import Stopped, Watch, Worker, kept

log = structlog.get_logger()

APPLY_TRIES = 20  # versions that others may make while one is being written


def run_job(worker: Worker, job_id: int) -> None:
    """Do a job if it is free: check its batch, or train and apply it. A failure that would come again ends it.

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
            with kept(worker, claim) as watch:
                (run_check if claim.kind == JobKind.CHECK else _train_and_apply)(worker, claim, watch)
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


def _train_and_apply(worker: Worker, claim: Claim, watch: Watch) -> None:
    settings = MethodSettings.from_json(claim.settings)
    with watch.stage("load"):
        base = worker.shelf.base(claim.model, claim.model_digest)
        require_askable(base, claim.edits)
        encoder_of(worker, claim, settings)  # what does not fit the model is refused before anything is trained
        checked = taken_over(worker, claim, base)
    with watch.stage("train"):
        missing = [edit for edit in claim.edits if edit.id not in checked.edits]
        if checked.edits:
            watch.note(f"{len(checked.edits)} of {len(claim.edits)} edits are taken over as the check trained them")
        new = train_edits(base, settings, missing, watch.trained, watch.note) if missing else []
        done = {**checked.edits, **{each.edit.id: each for each in new}}
        trained = [done[edit.id] for edit in claim.edits]
    with watch.stage("scope"):
        scope = scope_of(worker, claim, settings, watch)
        keys = scope.keys_of(missing)
        unchanged = unchanged_keys(scope, claim.edits)
    for _ in range(APPLY_TRIES):
        with watch.stage("index"), worker.sessions() as session:
            latest = version_queries.latest(session, claim.collection_id)
            number = latest.number if latest else 0
            content = version_queries.version_content(session, claim.collection_id, number, block_bytes=False)
        content = checked.beside(content)
        result = candidate(content, settings, scope, trained, keys)
        with watch.stage("check"):
            stored = partial(stored_blocks, worker)
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
                    loss_curve=watch.thinned_curve(),
                    peak_memory_bytes=worker.shelf.peak_memory(),
                )
        except StaleBase:
            continue
        log.info("applied", version=version.number, edits=len(trained), seconds=watch.timings)
        return
    raise InvalidRequest(
        f"Other versions of {claim.collection} kept coming first, {APPLY_TRIES} times.",
        "Approve the batch again.",
    )


def _fail(worker: Worker, claim: Claim, reason: str) -> None:
    log.error("failed", reason=reason)
    try:
        with worker.sessions.begin() as session:
            jobs.fail(session, claim, reason)
    except LeaseLost:
        log.warning("the lease was lost before the failure could be recorded")
