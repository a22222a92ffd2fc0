"""The life of a job: enqueued with a batch or its approval, claimed with a lease, ended by whoever holds it.

A check comes before the decision and says something of each edit; it changes no version. A training comes after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.collections import repository as collections
from registry.digests import sha256_hex
from registry.edits import repository as edits
from registry.edits.models import Batch
from registry.errors import LeaseLost
from registry.jobs import repository
from registry.jobs.models import Job
from registry.jobs.schemas import EditCheck, EditReport, WorkerView
from registry.vocabulary import Action, BatchState, Checks, EditKind, JobKind, JobState

TRAIN = "worker.train"  # the Celery task's name, of checks too: the job's row says what is to be done
ALIVE_SECONDS = 30  # a worker whose last sign of life is older counts as gone
MOST_ATTEMPTS = 5  # workers that may be lost over a job before it is given up
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
    kind: JobKind
    checks: Checks  # what a check has to do, by the policy
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


def enqueue(session: Session, batch: Batch, kind: JobKind = JobKind.TRAIN) -> Job:
    """A job for the batch, and the message that will wake a worker."""
    collection = collections.by_id(session, batch.collection_id)
    job = Job(
        batch_id=batch.id,
        collection_id=batch.collection_id,
        kind=kind,
        state=JobState.QUEUED,
        # The same edits are trained from the same seed, whoever trains them.
        seed=int(batch.edits_digest[:15], 16),
        settings=dict(collection.method),
    )
    session.add(job)
    session.flush()
    repository.add_message(session, TRAIN, job.id)
    return job


def enqueue_check(session: Session, batch: Batch) -> Job | None:
    """The check of a submitted batch; None where the collection's policy has none."""
    if collections.by_id(session, batch.collection_id).checks == Checks.NONE:
        return None
    return enqueue(session, batch, JobKind.CHECK)


def cancel_checks(session: Session, batch: Batch, *, held_too: bool) -> Sequence[int]:
    """End the batch's checks on which nobody works; with `held_too`, also one that a worker is at.

    That worker finds out at its next heartbeat. Have the batch locked. Returns the ids of the jobs.
    """
    return repository.cancel_checks(session, batch.id, held_too=held_too)


def claim(
    session: Session, job_id: int, *, worker: str, device: str, libraries: dict[str, str], lease_seconds: float
) -> Claim | None:
    """Take a job, if it is free: queued, or its last worker's lease has run out. None: there is nothing to do.

    A training waits for the batch's check, where a worker is at it: it takes over what that has trained. Commit at
    once: only then do others see the claim. A job over which many workers were lost is ended instead: it may be the job
    that kills them.
    """
    waiting = repository.by_id(session, job_id)
    if waiting is None:
        return None
    # The batch before its jobs, as whoever decides on it does.
    batch = edits.lock_batch(session, waiting.batch_id)
    assert batch is not None  # a foreign key
    if not _is_due(session, batch, JobKind(waiting.kind)):
        return None
    if deadly := repository.lock_deadly(session, job_id, MOST_ATTEMPTS):
        _fail(session, deadly, batch, f"{deadly.attempt} workers were lost over it", Actor(f"worker/{worker}"))
        return None
    token = uuid4()
    job = repository.take(session, job_id, token, lease_seconds, worker=worker, device=device, libraries=libraries)
    if job is None:
        return None
    left_out: set[int] = set()
    if job.kind == JobKind.TRAIN:
        batch.state = BatchState.TRAINING
        left_out = edits.declined(session, [batch.id])
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
        if edit.id not in left_out
    )
    taken = Claim(
        job_id=job.id,
        kind=JobKind(job.kind),
        checks=Checks(collection.checks),
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
    if taken.kind == JobKind.TRAIN:
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


def _is_due(session: Session, batch: Batch, kind: JobKind) -> bool:
    """Whether it is this job's turn. A check that nobody waits for any more is cancelled."""
    if kind == JobKind.TRAIN:
        if repository.is_checked_now(session, batch.id):
            return False
        repository.cancel_checks(session, batch.id, held_too=False)
        return True
    if batch.state == BatchState.SUBMITTED:
        return True
    if repository.cancel_checks(session, batch.id, held_too=False):
        wake_training(session, batch)
    return False


def heartbeat(session: Session, claim: Claim, progress: dict[str, Any]) -> bool:
    """Renew the lease and show how far the training is. False: the job was lost to another worker; stop."""
    return repository.renew(session, claim.job_id, claim.token, claim.lease_seconds, progress)


def hold(session: Session, claim: Claim) -> Job:
    """The claimed job, locked until the transaction ends. Raises LeaseLost where the claim is no longer good.

    Its collection and its batch are locked before it, in the order in which whoever decides on a batch has them.
    """
    collections.lock(session, claim.collection_id)
    edits.lock_batch(session, claim.batch_id)
    job = repository.lock_held(session, claim.job_id, claim.token)
    if job is None:
        raise LeaseLost(
            f"Job {claim.job_id} is no longer held by attempt {claim.attempt} of worker {claim.worker}.",
            "Throw the result away: whoever holds the job now will finish it.",
        )
    return job


def write_report(
    session: Session,
    claim: Claim,
    report: Sequence[EditReport | EditCheck],
    progress: dict[str, Any] | None = None,
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
    job.attempt -= 1  # no worker was lost over it
    job.attempt_token = None
    job.lease_until = None
    job.progress = None
    repository.add_message(session, TRAIN, job.id)


def fail(session: Session, claim: Claim, error: str) -> None:
    """End the job with a reason; with a training fails the batch, while a check that failed stands in nobody's way.

    Raises LeaseLost where the claim is no longer good.
    """
    job = hold(session, claim)
    batch = edits.batch(session, job.batch_id)
    assert batch is not None
    reason = error.replace("\x00", "")[:_LONGEST_ERROR] or "the worker gave no reason"
    _fail(session, job, batch, reason, claim.actor)


def _fail(session: Session, job: Job, batch: Batch, reason: str, actor: Actor) -> None:
    _end(job, JobState.FAILED)
    job.error = reason
    if job.kind == JobKind.TRAIN:
        batch.state = BatchState.FAILED
    else:
        wake_training(session, batch)
    audit.record(
        session,
        Action.BATCH_FAIL if job.kind == JobKind.TRAIN else Action.BATCH_CHECK,
        actor,
        f"batch/{batch.id}",
        collection_id=job.collection_id,
        before=batch.edits_digest,
        after=batch.edits_digest,
        # An error may quote an edit, whose content must stay erasable: its text is in the job alone.
        reason=f"see the error of job {job.id}",
        details={"job": job.id, "attempt": job.attempt, "error": sha256_hex(reason.encode())},
    )


def succeed(
    session: Session,
    job: Job,
    *,
    timings: dict[str, float],
    loss_curve: list[Any],
    peak_memory_bytes: int | None,
) -> None:
    """Part of the transaction that writes the job's version, or a check's report."""
    _end(job, JobState.SUCCEEDED)
    job.timings = timings
    job.loss_curve = loss_curve
    job.peak_memory_bytes = peak_memory_bytes
    batch = edits.batch(session, job.batch_id)
    assert batch is not None
    if job.kind == JobKind.TRAIN:
        batch.state = BatchState.APPLIED
    else:
        wake_training(session, batch)


def wake_training(session: Session, batch: Batch) -> None:
    """Send again for the batch's training, which may have waited for its check to end."""
    session.flush()
    waiting = repository.waiting_training(session, batch.id)
    if waiting is not None:
        repository.add_message(session, TRAIN, waiting)


def _end(job: Job, state: JobState) -> None:
    job.state = state
    job.finished_at = func.now()
    job.attempt_token = None
    job.lease_until = None


def worker_seen(session: Session, worker: str, device: str, models: dict[str, Any] | None = None) -> None:
    """A sign of life, every few seconds. models: what it holds in memory, for an operator to see."""
    repository.see_worker(session, worker, device, models or {})


def workers(session: Session, *, before: tuple[datetime, str] | None, limit: int) -> list[WorkerView]:
    """Newest sign of life first; before: sign and name of the last one on the page before."""
    return [
        WorkerView(worker=seen.worker, device=seen.device, seen_at=seen.seen_at, models=seen.models, alive=alive)
        for seen, alive in repository.workers(session, ALIVE_SECONDS, before=before, limit=limit)
    ]
