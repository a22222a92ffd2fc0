"""Making versions: applying a trained batch, retiring edits, rolling back. Each is one transaction of its caller."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.collections import repository as collections
from registry.collections.models import Collection
from registry.edits import repository as edits
from registry.errors import DigestMismatch, InvalidRequest, NotFound, WrongState
from registry.jobs import service as queue
from registry.jobs.service import Claim
from registry.versions import repository
from registry.versions.models import Version
from registry.versions.restoring import restore
from registry.versions.storing import retire_points, store_result
from registry.versions.training_result import TrainingResult
from registry.vocabulary import Action, VersionKind


def apply(
    session: Session,
    claim: Claim,
    result: TrainingResult,
    *,
    timings: dict[str, float],
    loss_curve: list[Any],
    peak_memory_bytes: int | None = None,
) -> Version:
    """Finish a job: store what was trained and make the version in which it acts.

    Raises LeaseLost where the job belongs to another worker by now, StaleBase where another version came first
    (build the index again on the newest one, and call again), InvalidResult where the result does not fit the job.
    """
    job = queue.hold(session, claim)
    collection = collections.lock(session, claim.collection_id)
    parent = repository.latest(session, collection.id)
    number = (parent.number if parent else 0) + 1
    replaced = store_result(session, collection, claim, result, number)
    queue.succeed(session, job, timings=timings, loss_curve=loss_curve, peak_memory_bytes=peak_memory_bytes)
    batch = edits.batch(session, claim.batch_id)
    assert batch is not None  # a foreign key
    version = _add(
        session,
        collection,
        parent,
        kind=VersionKind.APPLY,
        message=batch.message,
        reason=batch.reason or "",
        author=batch.submitted_by,
        batch_id=batch.id,
    )
    for overlap in result.overlaps:
        audit.record(
            session,
            Action.EDIT_FORGET if overlap.forgotten else Action.EDIT_OVERLAP,
            claim.actor,
            f"edit/{overlap.other_edit_id}",
            collection_id=collection.id,
            details={
                "edit": overlap.other_edit_id,
                "by_edit": overlap.edit_id,
                "version": number,
                "distance": f"{overlap.distance:.6f}",
            },
        )
    _record(
        session,
        Action.VERSION_APPLY,
        claim.actor,
        collection,
        parent,
        version,
        {
            "batch": batch.id,
            "job": job.id,
            "edits": [edit.id for edit in claim.edits],
            "replaced": replaced,
            "submitted_by": batch.submitted_by,
            "approved_by": batch.decided_by,
        },
    )
    return version


def retire(session: Session, collection: Collection, edit_ids: Sequence[int], actor: Actor, reason: str) -> Version:
    """A version in which the edits no longer act; nothing is trained, and no other edit's scope moves.

    Raises NotFound for edits of other collections, WrongState where one is not active.
    """
    collection = collections.lock(session, collection.id)
    parent = repository.latest(session, collection.id)
    wanted = sorted(set(edit_ids))
    known = {edit.id for edit in edits.by_ids(session, wanted) if edit.collection_id == collection.id}
    if unknown := [edit_id for edit_id in wanted if edit_id not in known]:
        raise NotFound(
            f"Collection {collection.name} has no edit {_listed(unknown)}.",
            f"`melo edits list {collection.name}` shows its edits.",
        )
    standing = edits.standing_by_id(session, collection.id, wanted)
    active = {edit.id for edit in standing if edit.active_since is not None}
    if idle := [edit_id for edit_id in wanted if edit_id not in active]:
        raise WrongState(
            f"Edit {_listed(idle)} of collection {collection.name} is not active, so it cannot be retired.",
            f"`melo edits list {collection.name} --active` shows those that are.",
        )
    assert parent is not None  # something is active
    number = parent.number + 1
    retire_points(session, collection, wanted, number)
    repository.close_activations(session, wanted, number)
    version = _add(
        session,
        collection,
        parent,
        kind=VersionKind.RETIRE,
        message=f"retire edit {_listed(wanted)}",
        reason=reason,
        author=actor.name,
    )
    _record(session, Action.VERSION_RETIRE, actor, collection, parent, version, {"edits": wanted})
    return version


def rollback(session: Session, collection: Collection, to: int, actor: Actor, reason: str) -> Version:
    """A version whose content equals that of version `to` (0: the base model, nothing active), bit for bit.

    Raises NotFound, or InvalidRequest where `to` is the newest version itself; DigestMismatch where the stored
    content of `to` is no longer what was recorded.
    """
    collection = collections.lock(session, collection.id)
    parent = repository.latest(session, collection.id)
    if parent is None or to == parent.number:
        raise InvalidRequest(
            f"Collection {collection.name} is at version {to} already.",
            f"`melo versions {collection.name}` shows the versions to go back to.",
        )
    wanted = get(session, collection, to).content_digest if to else repository.digest_in(session, collection, 0)
    restore(session, collection.id, source=to, number=parent.number + 1)
    version = _add(
        session,
        collection,
        parent,
        kind=VersionKind.ROLLBACK,
        message=f"rollback to version {to}" if to else "rollback to the base model",
        reason=reason,
        author=actor.name,
        restores=to,
    )
    if version.content_digest != wanted:
        raise DigestMismatch(
            f"What is stored of version {to} of {collection.name} has the digest {version.content_digest}, but "
            f"{wanted} was recorded: it was not restored.",
            "Run `melo audit verify` to find what differs.",
        )
    _record(session, Action.VERSION_ROLLBACK, actor, collection, parent, version, {"to": to})
    return version


def get(session: Session, collection: Collection, number: int) -> Version:
    """Raises NotFound."""
    version = repository.by_number(session, collection.id, number)
    if version is None:
        newest = repository.latest(session, collection.id)
        there = f"its newest is {newest.number}" if newest else "nothing was applied to it yet"
        raise NotFound(
            f"Collection {collection.name} has no version {number}: {there}.",
            f"`melo versions {collection.name}` lists them.",
        )
    return version


def _add(session: Session, collection: Collection, parent: Version | None, **facts: Any) -> Version:
    """The row of the next version, digested over what by now is stored as valid in it."""
    number = (parent.number if parent else 0) + 1
    session.flush()
    version = Version(
        collection_id=collection.id,
        number=number,
        parent_id=parent.id if parent else None,
        content_digest=repository.digest_in(session, collection, number),
        edit_count=repository.count_active(session, collection.id, number),
        **facts,
    )
    session.add(version)
    session.flush()
    return version


def _record(
    session: Session,
    action: Action,
    actor: Actor,
    collection: Collection,
    parent: Version | None,
    version: Version,
    details: dict[str, Any],
) -> None:
    audit.record(
        session,
        action,
        actor,
        f"version/{collection.name}/{version.number}",
        collection_id=collection.id,
        before=parent.content_digest if parent else None,
        after=version.content_digest,
        reason=version.reason,
        details={**details, "message": version.message, "author": version.author},
    )


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(str(each) for each in ids)
