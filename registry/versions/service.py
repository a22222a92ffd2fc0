"""Creates versions: applies a trained batch, retires edits, reverts a version, rolls back to one.

Each runs in a single transaction of its caller.
"""

from collections.abc import Callable, Sequence
from datetime import UTC
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import (
    EditForget,
    EditOverlap,
    VersionApply,
    VersionMade,
    VersionRetire,
    VersionRevert,
    VersionRollback,
)
from registry.base.digests import report_digest
from registry.base.errors import InvalidRequest, NotFound, StaleBase, WrongState, ids_in_words
from registry.base.multiset import Multiset
from registry.base.vocabulary import VersionKind
from registry.collections import repository as collections
from registry.edits import repository as edits
from registry.jobs import service as queue
from registry.jobs.approval import require_approved
from registry.jobs.service import Held
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.versions import repository, reverting, states
from registry.versions.change import Change, add_version
from registry.versions.erased import require_whole
from registry.versions.storing import store_result
from registry.versions.training_result import TrainingResult

# The columns that a version has in common with those that restore it.
CONTENT = ("content_version", "content_digest", "content_state", "edit_count", "cluster_count", "block_count")


def apply(
    session: Session,
    held: Held,
    result: TrainingResult,
    *,
    timings: dict[str, float],
    loss_curve: list[Any],
    peak_memory_bytes: int | None = None,
) -> Version:
    """Finish a job: store what was trained and create the version in which it is active.

    Raises PastDeadline if it is too late, Unverified if its approval does not verify, StaleBase if another version came
    first (rebuild the index on the newest one, and call again), and InvalidResult if the result does not fit the job.
    """
    claim, collection, batch, job = held.claim, held.collection, held.batch, held.job
    queue.require_in_time(session, claim)
    require_approved(session, batch, job)
    newest = repository.latest(session, collection.id)
    base = newest.number if newest else 0
    if result.base_version != base:
        raise StaleBase(
            f"The index was built on version {result.base_version} of {collection.name}, which is now at {base}.",
            "Build it again on the newest version; the trained blocks stay valid.",
        )
    change = Change(session, collection, newest)
    replaced = store_result(session, collection, claim, result, change)
    queue.succeed(session, held, timings=timings, loss_curve=loss_curve, peak_memory_bytes=peak_memory_bytes)
    version = change.make(
        kind=VersionKind.APPLY,
        message=batch.message,
        reason=batch.reason or "",
        author=batch.submitted_by,
        batch_id=batch.id,
    )
    for overlap in result.overlaps:
        near = EditForget if overlap.forgotten else EditOverlap
        audit.record(
            session,
            near(
                edit=overlap.other_edit_id,
                by_edit=overlap.edit_id,
                version=version.number,
                distance=f"{overlap.distance:.6f}",
            ),
            claim.actor,
            f"edit/{overlap.other_edit_id}",
            collection_id=collection.id,
        )
    details = partial(
        VersionApply,
        batch=batch.id,
        job=job.id,
        edits=[edit.id for edit in claim.edits],
        replaced=replaced,
        submitted_by=batch.submitted_by,
        approved_by=batch.decided_by,
        trained=repository.stored_by(session, job.id),
        report=report_digest(job.report),
    )
    _record(session, details, claim.actor, collection, newest, version)
    return version


def retire(session: Session, collection: Collection, edit_ids: Sequence[int], actor: Actor, reason: str) -> Version:
    """Create a version in which the edits are no longer active; nothing is trained, and no other edit's scope moves.

    Raises NotFound for edits of other collections, and WrongState if one is not active.
    """
    collection = collections.lock(session, collection.id)
    newest = repository.latest(session, collection.id)
    wanted = sorted(set(edit_ids))
    known = {edit.id for edit in edits.by_ids(session, wanted) if edit.collection_id == collection.id}
    if unknown := [edit_id for edit_id in wanted if edit_id not in known]:
        raise NotFound(
            f"Collection {collection.name} has no edit {ids_in_words(unknown)}.",
            f"`melo edit list {collection.name}` shows its edits.",
        )
    active = states.active_edits(session, wanted, newest.content_version if newest else 0)
    if idle := [edit_id for edit_id in wanted if edit_id not in active]:
        raise WrongState(
            f"Edit {ids_in_words(idle)} of collection {collection.name} is not active, so it cannot be retired.",
            f"`melo edit list {collection.name} --active` shows those that are.",
        )
    change = Change(session, collection, newest)
    change.deactivate(wanted)
    change.drop_points(repository.points_of_edits(session, wanted))
    version = change.make(
        kind=VersionKind.RETIRE,
        message=f"retire edit {ids_in_words(wanted)}",
        reason=reason,
        author=actor.name,
    )
    _record(session, partial(VersionRetire, edits=wanted), actor, collection, newest, version)
    return version


def revert(session: Session, collection: Collection, number: int, actor: Actor, reason: str) -> Version:
    """Create a version that undoes what version `number` changed; nothing is trained.

    Raises NotFound, WrongState if a later version changed one of its edits again, and InvalidRequest if the version
    changed nothing.
    """
    collection = collections.lock(session, collection.id)
    newest = repository.latest(session, collection.id)
    undone = get(session, collection, number)
    assert newest is not None  # there is one with that number
    reversal = reverting.plan(session, collection, undone, newest)
    change = Change(session, collection, newest)
    reverting.carry_out(session, change, reversal)
    version = change.make(
        kind=VersionKind.REVERT,
        message=f"revert version {number}",
        reason=reason,
        author=actor.name,
        reverts=number,
    )
    back = [edit.id for edit in reversal.taken_out]
    details = partial(VersionRevert, reverts=number, edits=reversal.added, edits_back=back)
    _record(session, details, actor, collection, newest, version)
    return version


def rollback(session: Session, collection: Collection, to: int, actor: Actor, reason: str) -> Version:
    """Create a version whose content equals that of version `to` (0: the base model, nothing active), bit for bit.

    It has the state of `to`, so it costs one row. Whether the stored content of that state is still what was recorded
    is for the loaders and `audit verify` to find out. Raises NotFound, or InvalidRequest if `to` is the newest version
    itself.
    """
    collection = collections.lock(session, collection.id)
    newest = repository.latest(session, collection.id)
    if newest is None or to == newest.number:
        raise InvalidRequest(
            f"Collection {collection.name} is already at version {to}.",
            f"`melo version list {collection.name}` shows the versions to go back to.",
        )
    version = add_version(
        session,
        collection,
        newest,
        kind=VersionKind.ROLLBACK,
        message=f"rollback to version {to}" if to else "rollback to the base model",
        reason=reason,
        author=actor.name,
        restores=to,
        **_shown_by(session, collection, to),
    )
    _record(session, partial(VersionRollback, to=to), actor, collection, newest, version)
    return version


def _shown_by(session: Session, collection: Collection, number: int) -> dict[str, Any]:
    """Return the content of a version, as columns of one that restores it."""
    if number:
        restored = get(session, collection, number)
        require_whole(session, collection.id, number, restored.content_version)
        return {column: getattr(restored, column) for column in CONTENT}
    return {
        "content_version": 0,
        "content_digest": repository.base_digest(session, collection),
        "content_state": bytes(Multiset()),
        "edit_count": 0,
        "cluster_count": 0,
        "block_count": 0,
    }


def get(session: Session, collection: Collection, number: int) -> Version:
    """Return the version. Raises NotFound."""
    version = repository.by_number(session, collection.id, number)
    if version is None:
        newest = repository.latest(session, collection.id)
        there = f"its newest is {newest.number}" if newest else "nothing was applied to it yet"
        raise NotFound(
            f"Collection {collection.name} has no version {number}: {there}.",
            f"`melo version list {collection.name}` lists them.",
        )
    return version


def _record(
    session: Session,
    details: Callable[..., VersionMade],
    actor: Actor,
    collection: Collection,
    newest: Version | None,
    version: Version,
) -> None:
    """Record the event of a version.

    details: makes them, given what every version's event has.
    """
    audit.record(
        session,
        details(
            message=version.message,
            author=version.author,
            made_at=version.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
            counts=[version.edit_count, version.cluster_count, version.block_count],
        ),
        actor,
        f"version/{collection.name}/{version.number}",
        collection_id=collection.id,
        before=newest.content_digest if newest else None,
        after=version.content_digest,
        reason=version.reason,
    )
