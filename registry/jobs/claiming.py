"""Claims jobs: chooses a job for a worker, and makes sure that nobody else gets it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.audit.details import BatchTrain
from registry.base.database import now
from registry.base.errors import PastDeadline, Unverified
from registry.base.vocabulary import BatchState, EditKind, JobKind, JobState, Preflight, Priority, QueueState
from registry.collections import method
from registry.collections import repository as collections
from registry.edits import events
from registry.edits import repository as edits
from registry.jobs import approval, ending, order, outbox, repository
from registry.jobs.order import Place
from registry.tables.collections import Collection as CollectionRow
from registry.tables.edits import Batch, Edit
from registry.tables.jobs import Job

MOST_ATTEMPTS = 5  # lost workers or failures of a job before it is given up
LOCK_SECONDS = 1.0  # how long a worker waits for a locked collection if there is no other job
PATIENCE_SECONDS = 300.0  # the longest that a job waits so that a worker can keep its model loaded

_Lock = Callable[[Session, int], CollectionRow | None]


@dataclass(frozen=True)
class ClaimedEdit:
    """An edit to train, as the worker needs it."""

    id: int
    position: int
    prompt: str
    target: str
    alternatives: tuple[str, ...]
    rephrases: tuple[str, ...]
    unchanged: tuple[str, ...]
    kind: EditKind
    author: str
    reason: str
    source: str
    replaces: int | None
    digest: str

    @classmethod
    def of(cls, edit: Edit) -> "ClaimedEdit":
        return cls(
            id=edit.id,
            position=edit.position,
            prompt=edit.prompt,
            target=edit.target,
            alternatives=tuple(edit.alternatives),
            rephrases=tuple(edit.rephrases),
            unchanged=tuple(edit.unchanged),
            kind=EditKind(edit.kind),
            author=edit.author,
            reason=edit.reason,
            source=edit.source,
            replaces=edit.replaces,
            digest=edit.digest,
        )


@dataclass(frozen=True)
class Claim:
    """The right to finish a job, and everything to train it with."""

    job_id: int
    kind: JobKind
    preflight: Preflight  # what a preflight has to do, by the policy
    preflight_limits: dict[str, int]  # what it may take, by the policy
    token: UUID
    attempt: int
    worker: str
    lease_seconds: float
    batch_id: int
    collection_id: int
    collection: str
    model: str
    model_digest: str
    model_files: dict[str, str]  # SHA-256 by name
    window: int
    encoder: str
    encoder_digest: str | None  # None: no worker has fixed the encoder yet
    method: dict[str, Any]  # of the collection as a whole
    settings: dict[str, Any]  # the method's settings with the batch's changes
    seed: int
    priority: Priority
    deadline: datetime | None  # a training that is not applied by then is never applied
    queued_at: datetime
    claimed_at: datetime  # by the database's clock, like the other times
    edits: tuple[ClaimedEdit, ...]

    @property
    def actor(self) -> Actor:
        return Actor(f"worker/{self.worker}")


@dataclass(frozen=True)
class _Worker:
    """The worker that claims, and what is recorded about it."""

    name: str
    device: str
    libraries: Mapping[str, Any]
    lease_seconds: float

    @property
    def actor(self) -> Actor:
        return Actor(f"worker/{self.name}")


class _Ended(Exception):
    """There is nothing to claim, but there is something to commit: the job was ended instead."""


class _Busy(Exception):
    """Another transaction has the job's collection."""


def claim(
    session: Session, job_id: int, *, worker: str, device: str, libraries: Mapping[str, Any], lease_seconds: float
) -> Claim | None:
    """Take a job, if it is free and its turn has come. None: there is nothing to do.

    Free: queued, or its last worker's lease has run out. A training's turn comes when those before it in its collection
    are done and no worker is at the batch's preflight, since it takes over what that has trained. Nothing of a paused
    collection is begun. Commit at once, also after None: only then do others see the claim, or that the job was ended
    instead, which has had all its attempts, or whose deadline has passed.
    """
    by = _Worker(worker, device, libraries, lease_seconds)
    try:
        taken = _take_first(session, job_id, by, collections.lock)
    except _Ended:
        return None
    if taken is None:
        return None
    _record(session, taken[0], device)
    return taken[0]


def claim_next(
    session: Session,
    *,
    worker: str,
    device: str,
    libraries: Mapping[str, Any],
    lease_seconds: float,
    models: Collection[str] | None,
    loaded: Collection[str],
) -> list[Claim] | None:
    """Claim the best job for this worker, and the trainings right behind it that can be trained with it, in order.

    models: digests of the base models that the worker may load; None: any. loaded: digests of those that it has in
    memory. Returns an empty list if there is nothing to do, and None if the caller should ask again soon in another
    transaction: a job was ended instead, or other transactions hold the available jobs. Commit at once in every case.
    """
    by = _Worker(worker, device, libraries, lease_seconds)
    busy = list[int]()
    try:
        for job_id in order.best(session, models, loaded, PATIENCE_SECONDS):
            try:
                if claims := _try(session, job_id, by, collections.lock_at_once):
                    return claims
            except _Busy:  # a version may be being written, which takes a while
                busy.append(job_id)
        if not busy:
            return []
        # There is no other job. If transactions follow each other closely, only one that waits gets the lock.
        return _try(session, busy[0], by, partial(collections.lock_soon, seconds=LOCK_SECONDS)) or None
    except (_Ended, _Busy):
        return None


def _try(session: Session, job_id: int, by: _Worker, lock: _Lock) -> list[Claim]:
    """Claim the job and its followers. Returns an empty list if it is not available.

    No lock is held after an empty list: two workers that go through several collections must not wait for each other.
    Raises _Busy, also without a lock, and _Ended, after which no other collection may be locked, as an event was
    written.
    """
    step = session.begin_nested()
    try:
        taken = _take_first(session, job_id, by, lock)
    except _Ended:
        step.commit()
        raise
    except _Busy:
        step.rollback()
        raise
    if taken is None:
        step.rollback()
        return []
    first, behind = taken
    claims = [first, *_followers(session, first, behind, by)]
    step.commit()
    for each in claims:
        _record(session, each, by.device)
    return claims


def _take_first(session: Session, job_id: int, by: _Worker, lock: _Lock) -> tuple[Claim, list[Place]] | None:
    """Return the claim, with the jobs behind it in its collection. Raises _Ended, and _Busy if `lock` returns None."""
    known = repository.by_id(session, job_id)
    if known is None:
        return None
    # Collection, batch, jobs: the order in which a decision on a batch locks them.
    collection = lock(session, known.collection_id)
    if collection is None:
        raise _Busy
    batch = edits.lock_batch(session, known.batch_id)
    job = repository.lock_free(session, job_id)
    assert batch is not None  # a foreign key
    if job is None or collection.queue == QueueState.PAUSED:
        return None
    if job.kind == JobKind.PREFLIGHT:
        _end_hopeless(session, job, batch, by.actor, is_overdue=False)
        return _take(session, collection, batch, job, by), []
    first, *behind = order.line(session, collection.id)
    if first.job_id != job.id or repository.is_preflight_held(session, batch.id):
        return None
    _end_hopeless(session, job, batch, by.actor, is_overdue=first.is_overdue)
    try:
        approval.require_approved(session, batch, job)
    except Unverified as error:
        ending.fail(session, job, batch, str(error), by.actor)
        raise _Ended from None
    return _take(session, collection, batch, job, by), behind


def _end_hopeless(session: Session, job: Job, batch: Batch, actor: Actor, *, is_overdue: bool) -> None:
    """End a job that is no longer of use, or that may be what kills its workers, and raise _Ended."""
    if job.kind == JobKind.PREFLIGHT and batch.state != BatchState.SUBMITTED:
        repository.cancel_preflights(session, batch.id, held_too=False)
        outbox.wake_training(session, batch.id)
        raise _Ended
    if job.state == JobState.RUNNING and job.attempt >= MOST_ATTEMPTS:
        ending.fail(session, job, batch, f"{job.attempt} attempts failed or were lost with their workers", actor)
        raise _Ended
    if is_overdue:
        ending.fail(session, job, batch, ending.past_deadline(job, batch), actor)
        raise _Ended


def _followers(
    session: Session,
    first: Claim,
    behind: list[Place],
    by: _Worker,
) -> list[Claim]:
    """Claim the trainings right behind the first that can be trained together with it.

    A training that was tried before is excluded, because whatever ended it would end the others too. The first training
    must not pay for its followers: none follow one with a deadline, or with a higher priority than theirs.
    """
    if first.kind != JobKind.TRAIN or first.attempt > 1 or first.deadline is not None:
        return []
    room = method.installed().edits_together(first.settings) - len(first.edits)
    found: list[Claim] = []
    for place in behind:
        if place.is_held or not place.is_due or place.is_overdue or place.attempt:
            break
        if (place.priority, place.settings) != (first.priority, first.settings):
            break
        room -= place.edit_count - len(edits.declined(session, [place.batch_id]))
        if room < 0:
            break
        batch = edits.lock_batch(session, place.batch_id)
        job = repository.lock_free(session, place.job_id)
        if batch is None or job is None or repository.is_preflight_held(session, batch.id):
            break
        if approval.wrong_with(session, batch, job) is not None:
            break  # it ends with this reason when its own turn comes
        found.append(_take(session, collections.by_id(session, first.collection_id), batch, job, by))
    return found


def _take(session: Session, collection: CollectionRow, batch: Batch, job: Job, by: _Worker) -> Claim:
    """Give the job, which is locked and free, to the worker."""
    left_out: set[int] = set()
    if job.kind == JobKind.TRAIN:
        repository.cancel_preflights(session, batch.id, held_too=False)
        batch.state = BatchState.TRAINING
        left_out = edits.declined(session, [batch.id])
    token = uuid4()
    repository.take(
        session, job, token, by.lease_seconds, worker=by.name, device=by.device, libraries=dict(by.libraries)
    )
    claimed = tuple(ClaimedEdit.of(edit) for edit in edits.of_batch(session, batch.id) if edit.id not in left_out)
    return Claim(
        job_id=job.id,
        kind=JobKind(job.kind),
        preflight=Preflight(collection.preflight),
        preflight_limits=dict(collection.preflight_limits),
        token=token,
        attempt=job.attempt,
        worker=by.name,
        lease_seconds=by.lease_seconds,
        batch_id=batch.id,
        collection_id=collection.id,
        collection=collection.name,
        model=collection.model,
        model_digest=collection.model_digest,
        model_files=dict(collection.model_files),
        window=collection.window,
        encoder=collection.encoder,
        encoder_digest=collection.encoder_digest,
        method=dict(collection.method),
        settings=dict(job.settings),
        seed=job.seed,
        priority=Priority(batch.priority),
        deadline=batch.deadline,
        queued_at=job.created_at,
        claimed_at=now(session),
        edits=claimed,
    )


def _record(session: Session, claim: Claim, device: str) -> None:
    """A training's claim moves its batch; a preflight's moves nothing."""
    if claim.kind == JobKind.PREFLIGHT:
        return
    batch = edits.batch(session, claim.batch_id)
    assert batch is not None  # a foreign key
    events.record(session, BatchTrain(job=claim.job_id, attempt=claim.attempt, device=device), claim.actor, batch)


def not_ready(claim: Claim) -> PastDeadline:
    """Return the error for a training that is still running at its batch's deadline."""
    until = ending.in_words(claim.deadline) if claim.deadline else "then"
    return PastDeadline(
        f"Batch {claim.batch_id} was to be applied by {until}, and was not ready by then.",
        "Submit its edits again, with another deadline or none.",
    )
