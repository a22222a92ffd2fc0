"""The life of a job: queued with a batch or its approval, claimed with a lease, ended by its holder.

A preflight comes before the decision and says something of each edit; it changes no version. A training comes after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.base.database import now
from registry.base.errors import LeaseLost
from registry.base.vocabulary import JobKind, JobState, Preflight
from registry.collections import repository as collections
from registry.collections.method import settings_for
from registry.edits import repository as edits
from registry.jobs import ending, order, outbox, repository
from registry.jobs.claiming import MOST_ATTEMPTS, PATIENCE_SECONDS, Claim, claim, claim_next, not_ready
from registry.jobs.outbox import TRAIN
from registry.jobs.schemas import EditPreflight, EditReport, Progress, WorkerView
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job

__all__ = [
    "MOST_ATTEMPTS", "PATIENCE_SECONDS", "TRAIN", "cancel", "cancel_preflights", "claim", "claim_next", "enqueue",
    "enqueue_preflight", "fail", "fail_overdue", "give_back", "heartbeat", "hold", "require_in_time", "retry_later",
    "succeed", "worker_seen", "workers", "write_report",
]  # fmt: skip

LONGEST_PAUSE_SECONDS = 600.0  # between two tries of a job
CLOCK = Actor("clock")  # the actor that ends overdue jobs


def enqueue(session: Session, batch: Batch, kind: JobKind = JobKind.TRAIN) -> Job:
    """Create a job for the batch, and the message that will wake a worker."""
    collection = collections.by_id(session, batch.collection_id)
    settings = settings_for(collection.method, batch.training)
    job = Job(
        batch_id=batch.id,
        collection_id=batch.collection_id,
        kind=kind,
        state=JobState.QUEUED,
        # A block's seed is derived from this one and its edits' content: the same edits start from the same weights.
        seed=int(settings.get("seed", 0)),
        settings=settings,
    )
    session.add(job)
    session.flush()
    outbox.wake(session, job.id)
    return job


def enqueue_preflight(session: Session, batch: Batch) -> Job | None:
    """The preflight of a submitted batch; None where the collection's policy has none."""
    if collections.by_id(session, batch.collection_id).preflight == Preflight.NONE:
        return None
    return enqueue(session, batch, JobKind.PREFLIGHT)


def cancel_preflights(session: Session, batch: Batch, *, held_too: bool) -> Sequence[int]:
    """End the batch's preflights on which nobody works; with `held_too`, also one that a worker is at.

    That worker finds out at its next heartbeat. Have the batch locked. Returns the ids of the jobs.
    """
    return repository.cancel_preflights(session, batch.id, held_too=held_too)


def cancel(session: Session, batch: Batch) -> Sequence[int]:
    """End the batch's preflight and training, whoever is at them. Have collection and batch locked. Returns the ids."""
    return ending.cancel_all(session, batch)


def heartbeat(session: Session, claim: Claim, progress: Progress) -> bool:
    """Renew the lease and record the progress. Returns False if the job was lost or cancelled: stop then."""
    return repository.renew(session, claim.job_id, claim.token, claim.lease_seconds, _kept(progress))


@dataclass(frozen=True)
class Held:
    """A claimed job with its collection and its batch, all locked until the transaction ends."""

    claim: Claim
    collection: Collection
    batch: Batch
    job: Job


def _kept(progress: Progress) -> dict[str, Any]:
    return progress.model_dump(exclude_defaults=True)


def hold(session: Session, claim: Claim) -> Held:
    """Lock the claimed job. Raises LeaseLost if the claim is no longer valid.

    Its collection and its batch are locked first, in the order in which a decision on a batch locks them.
    """
    collection = collections.lock(session, claim.collection_id)
    batch = edits.lock_batch(session, claim.batch_id)
    job = repository.lock_held(session, claim.job_id, claim.token)
    if job is None or batch is None:
        raise LeaseLost(
            f"Job {claim.job_id} is no longer held by attempt {claim.attempt} of worker {claim.worker}.",
            "Discard the result: the worker that holds the job now will finish it.",
        )
    return Held(claim, collection, batch, job)


def require_in_time(session: Session, claim: Claim) -> None:
    """Raise PastDeadline if the deadline has passed, by the database's clock: the worker's may differ."""
    if claim.deadline is not None and now(session) > claim.deadline:
        raise not_ready(claim)


def write_report(
    held: Held,
    report: Sequence[EditReport | EditPreflight],
    progress: Progress | None = None,
    trained_together: Sequence[int] | None = None,
) -> None:
    """Store the report on each edit and the last progress, in the transaction that finishes the job.

    trained_together: the ids of the edits that were trained together, in order, including those of other jobs.
    """
    job = held.job
    job.report = [each.model_dump(mode="json", exclude_defaults=True) for each in report]
    job.progress = _kept(progress) if progress else None
    job.trained_together = None if trained_together is None else list(trained_together)


def give_back(session: Session, claim: Claim, reason: str = "the worker stops") -> None:
    """Return the job to the queue at once, because this worker has to stop. Raises LeaseLost."""
    held = hold(session, claim)
    held.job.attempt -= 1  # this attempt does not count
    ending.put_back(session, held.job, held.batch, claim.actor, reason)


def retry_later(session: Session, claim: Claim, error: str, pause_seconds: float) -> bool:
    """Return the job to the queue after a transient failure; each pause is twice as long as the last.

    Returns False if the job was tried MOST_ATTEMPTS times, and has failed instead. Raises LeaseLost.
    """
    held = hold(session, claim)
    job, batch = held.job, held.batch
    if job.attempt >= MOST_ATTEMPTS:
        why = f"{job.attempt} attempts failed or were lost; the last one failed with: {error}"
        ending.fail(session, job, batch, why, claim.actor)
        return False
    pause = min(pause_seconds * 2 ** (job.attempt - 1), LONGEST_PAUSE_SECONDS)
    ending.put_off(session, job, batch, claim.actor, error, pause)
    return True


def fail(session: Session, claim: Claim, error: str) -> None:
    """End the job with a reason; with a training fails the batch, while a preflight that failed stands in nobody's way.

    Raises LeaseLost where the claim is no longer good.
    """
    held = hold(session, claim)
    ending.fail(session, held.job, held.batch, error, claim.actor)


def fail_overdue(session: Session, limit: int) -> int:
    """End trainings that no worker holds and whose deadline has passed. Returns how many.

    Those of a collection that another transaction has locked are left for the next time.
    """
    overdue = order.overdue(session, limit)
    # Take all locks before the first event, collections first and each kind in order, as everywhere.
    locked = {each for each in sorted({row[0] for row in overdue}) if collections.lock_at_once(session, each)}
    found = [row for row in overdue if row[0] in locked]
    batches = [edits.lock_batch(session, batch_id) for _, batch_id, _ in found]
    jobs = [repository.lock_free(session, job_id, due=False) for *_, job_id in found]
    ended = 0
    for batch, job in zip(batches, jobs, strict=True):
        if job is not None and batch is not None:
            ending.fail(session, job, batch, ending.past_deadline(job, batch), CLOCK)
            ended += 1
    return ended


def succeed(
    session: Session,
    held: Held,
    *,
    timings: dict[str, float],
    loss_curve: list[Any],
    peak_memory_bytes: int | None,
) -> None:
    """Part of the transaction that writes the job's version, or a preflight's report."""
    job = held.job
    job.timings = timings
    job.loss_curve = loss_curve
    job.peak_memory_bytes = peak_memory_bytes
    job.error = None  # the error of an earlier attempt
    ending.end(session, job, held.batch, JobState.SUCCEEDED)


def worker_seen(session: Session, worker: str, device: str, models: dict[str, Any] | None = None) -> None:
    """Record a worker's heartbeat, every few seconds.

    models: those that it holds in memory, for an operator to see.
    """
    repository.see_worker(session, worker, device, models or {})


def workers(session: Session, *, before: tuple[datetime, str] | None, limit: int) -> list[WorkerView]:
    """Return workers, most recent heartbeat first.

    before: heartbeat and name of the last one on the previous page.
    """
    return [
        WorkerView(worker=seen.worker, device=seen.device, seen_at=seen.seen_at, models=seen.models, alive=alive)
        for seen, alive in repository.workers(session, before=before, limit=limit)
    ]
