"""The life of a training job: enqueued with the approval, claimed with a lease, finished or failed by its holder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.collections import repository as collections
from registry.edits import repository as edits
from registry.edits.models import Batch
from registry.errors import LeaseLost
from registry.jobs import repository
from registry.jobs.models import Job
from registry.jobs.schemas import EditReport, WorkerView
from registry.vocabulary import Action, BatchState, EditKind, JobState

TRAIN = "worker.train"  # the Celery task's name
ALIVE_SECONDS = 30  # a worker whose last sign of life is older counts as gone
_LONGEST_ERROR = 10_000


@dataclass(frozen=True)
class ClaimedEdit:
    """An edit to train, as the worker needs it."""

    id: int
    position: int
    prompt: str
    target: str
    rephrases: tuple[str, ...]
    unchanged: tuple[str, ...]
    kind: EditKind
    replaces: int | None
    digest: str


@dataclass(frozen=True)
class Claim:
    """The right to finish a job, and everything to train it with."""

    job_id: int
    token: UUID
    attempt: int
    worker: str
    lease_seconds: float
    batch_id: int
    collection_id: int
    collection: str
    model: str
    model_digest: str
    window: int
    encoder: str
    encoder_digest: str | None  # None: no worker has finished a job of this collection yet
    method: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    edits: tuple[ClaimedEdit, ...]

    @property
    def actor(self) -> Actor:
        return Actor(f"worker/{self.worker}")


def enqueue(session: Session, batch: Batch) -> Job:
    """The job of an approved batch, and the message that will wake a worker."""
    collection = collections.by_id(session, batch.collection_id)
    job = Job(
        batch_id=batch.id,
        collection_id=batch.collection_id,
        state=JobState.QUEUED,
        # The same edits are trained from the same seed, whoever trains them.
        seed=int(batch.edits_digest[:15], 16),
        settings=dict(collection.method),
    )
    session.add(job)
    session.flush()
    repository.add_message(session, TRAIN, job.id)
    return job


def claim(
    session: Session, job_id: int, *, worker: str, device: str, libraries: dict[str, str], lease_seconds: float
) -> Claim | None:
    """Take a job, if it is free: queued, or its last worker's lease has run out. None: there is nothing to do.

    Commit at once: only then do others see the claim.
    """
    token = uuid4()
    job = repository.take(session, job_id, token, lease_seconds, worker=worker, device=device, libraries=libraries)
    if job is None:
        return None
    batch = edits.lock_batch(session, job.batch_id)
    assert batch is not None  # a foreign key
    batch.state = BatchState.TRAINING
    collection = collections.by_id(session, job.collection_id)
    claimed = tuple(
        ClaimedEdit(
            id=edit.id,
            position=edit.position,
            prompt=edit.prompt,
            target=edit.target,
            rephrases=tuple(edit.rephrases),
            unchanged=tuple(edit.unchanged),
            kind=EditKind(edit.kind),
            replaces=edit.replaces,
            digest=edit.digest,
        )
        for edit in edits.of_batch(session, batch.id)
    )
    taken = Claim(
        job_id=job.id,
        token=token,
        attempt=job.attempt,
        worker=worker,
        lease_seconds=lease_seconds,
        batch_id=batch.id,
        collection_id=collection.id,
        collection=collection.name,
        model=collection.model,
        model_digest=collection.model_digest,
        window=collection.window,
        encoder=collection.encoder,
        encoder_digest=collection.encoder_digest,
        method=dict(collection.method),
        settings=dict(job.settings),
        seed=job.seed,
        edits=claimed,
    )
    audit.record(
        session,
        Action.BATCH_TRAIN,
        taken.actor,
        f"batch/{batch.id}",
        collection_id=collection.id,
        before=batch.edits_digest,
        after=batch.edits_digest,
        details={"job": job.id, "attempt": job.attempt, "device": device},
    )
    return taken


def heartbeat(session: Session, claim: Claim, progress: dict[str, Any]) -> bool:
    """Renew the lease and show how far the training is. False: the job was lost to another worker; stop."""
    return repository.renew(session, claim.job_id, claim.token, claim.lease_seconds, progress)


def hold(session: Session, claim: Claim) -> Job:
    """The claimed job, locked until the transaction ends. Raises LeaseLost where the claim is no longer good."""
    job = repository.lock_held(session, claim.job_id, claim.token)
    if job is None:
        raise LeaseLost(
            f"Job {claim.job_id} is no longer held by attempt {claim.attempt} of worker {claim.worker}.",
            "Throw the result away: whoever holds the job now will finish it.",
        )
    return job


def write_report(
    session: Session, claim: Claim, report: Sequence[EditReport], progress: dict[str, Any] | None = None
) -> None:
    """Keep what is to be said about each edit, and the last progress, in the transaction that finishes the job.

    Raises LeaseLost.
    """
    job = hold(session, claim)
    job.report = [each.model_dump(mode="json", exclude_defaults=True) for each in report]
    job.progress = progress
    session.flush()


def give_back(session: Session, claim: Claim) -> None:
    """Let another worker have the job, at once, since this one has to stop. Raises LeaseLost."""
    job = hold(session, claim)
    job.state = JobState.QUEUED
    job.attempt_token = None
    job.lease_until = None
    job.progress = None
    repository.add_message(session, TRAIN, job.id)


def fail(session: Session, claim: Claim, error: str) -> None:
    """End the job and its batch with a reason. Raises LeaseLost where the claim is no longer good."""
    job = hold(session, claim)
    reason = error.replace("\x00", "")[:_LONGEST_ERROR] or "the worker gave no reason"
    _end(job, JobState.FAILED)
    job.error = reason
    batch = edits.lock_batch(session, job.batch_id)
    assert batch is not None
    batch.state = BatchState.FAILED
    audit.record(
        session,
        Action.BATCH_FAIL,
        claim.actor,
        f"batch/{batch.id}",
        collection_id=job.collection_id,
        before=batch.edits_digest,
        after=batch.edits_digest,
        reason=reason,
        details={"job": job.id, "attempt": job.attempt},
    )


def succeed(
    session: Session,
    job: Job,
    *,
    timings: dict[str, float],
    loss_curve: list[Any],
    peak_memory_bytes: int | None,
) -> None:
    """Part of the transaction that writes the job's version."""
    _end(job, JobState.SUCCEEDED)
    job.timings = timings
    job.loss_curve = loss_curve
    job.peak_memory_bytes = peak_memory_bytes
    batch = edits.lock_batch(session, job.batch_id)
    assert batch is not None
    batch.state = BatchState.APPLIED


def _end(job: Job, state: JobState) -> None:
    job.state = state
    job.finished_at = func.now()
    job.attempt_token = None
    job.lease_until = None


def worker_seen(session: Session, worker: str, device: str, models: dict[str, Any] | None = None) -> None:
    """A sign of life, every few seconds. models: what it holds in memory, for an operator to see."""
    repository.see_worker(session, worker, device, models or {})


def workers(session: Session) -> list[WorkerView]:
    return [
        WorkerView(worker=seen.worker, device=seen.device, seen_at=seen.seen_at, models=seen.models, alive=alive)
        for seen, alive in repository.workers(session, ALIVE_SECONDS)
    ]


def hint(session: Session, job: Job | None) -> str:
    """What a batch's job waits for, in words; empty where it waits for nothing."""
    if job is None or job.state not in (JobState.QUEUED, JobState.RUNNING):
        return ""
    if not any(alive for _, alive in repository.workers(session, ALIVE_SECONDS)):
        return "No worker is running: the job waits. Start one with `melo up` or `melo worker`."
    if job.state == JobState.RUNNING:
        return ""
    ahead = repository.queued_ahead(session, job)
    return f"The job waits for a worker; {ahead} are before it." if ahead else "The job waits for a worker."
