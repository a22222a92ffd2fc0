"""A collection's queue, which is open, paused or draining, and the refusals that follow from it."""

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import QueueChange, QueueDrain, QueueOpen, QueuePause
from registry.base.errors import QueueClosed
from registry.base.vocabulary import QueueState
from registry.collections import repository
from registry.jobs import outbox
from registry.tables.collections import Collection

_EVENTS: dict[QueueState, type[QueueChange]] = {
    QueueState.OPEN: QueueOpen,
    QueueState.PAUSED: QueuePause,
    QueueState.DRAINING: QueueDrain,
}


def set_queue(session: Session, collection: Collection, state: QueueState, actor: Actor, reason: str) -> Collection:
    """Open, pause or drain the collection's queue, and record an event with the reason.

    What a worker has begun is finished in any case. If the queue already has this state, nothing happens.
    """
    collection = repository.lock(session, collection.id)
    before = QueueState(collection.queue)
    if state == before:
        return collection
    collection.queue = state
    if before == QueueState.PAUSED:
        outbox.wake_collection(session, collection.id)
    session.flush()
    audit.record(
        session,
        _EVENTS[state](before=before, after=state),
        actor,
        f"collection/{collection.name}",
        collection_id=collection.id,
        reason=reason,
    )
    return collection


def require_open(collection: Collection) -> None:
    """Raise QueueClosed if the collection accepts nothing new. (A paused one does; new work waits.)"""
    if collection.queue == QueueState.DRAINING:
        raise QueueClosed(
            f"Collection {collection.name} is draining: it finishes what is queued, and accepts nothing new.",
            f"Open it again: melo collection resume {collection.name} --reason …",
        )
