"""/v1/collections"""

from fastapi import APIRouter

from registry.api.bodies import body_up_to
from registry.api.http import ActorDep, CollectionDep, SessionDep, VisibleDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ByName
from registry.base.vocabulary import Role
from registry.batches import copying
from registry.batches import service as batches
from registry.batches.schemas import CollectionCopy, CopyView
from registry.collections import policy, service
from registry.collections.schemas import CollectionView, NewCollection, PolicyChange, QueueChange
from registry.jobs import collection_queue as queue
from registry.jobs import listing
from registry.jobs.schemas import QueueView

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=RepeatableRoute)


# With a calibration.
@router.post("", status_code=201, dependencies=[needs(Role.ADMIN), body_up_to(None)])
def create_collection(new: NewCollection, session: SessionDep, actor: ActorDep) -> CollectionView:
    """Create a collection, a line of versions over a base model."""
    return service.view(session, service.create(session, new, actor))


@router.post("/copies", status_code=201, dependencies=[needs(Role.ADMIN)])
def copy_collection(wanted: CollectionCopy, session: SessionDep, actor: ActorDep) -> CopyView:
    """Copy a collection's active edits into a new one, over another model or with other settings.

    They are one batch, which is decided on, trained and applied as any other.
    """
    made, batch = copying.copy(session, wanted, actor)
    return CopyView(collection=service.view(session, made), batch=batches.view(session, batch) if batch else None)


@router.get("", dependencies=[needs(Role.VIEWER, anywhere=True)])
def list_collections(session: SessionDep, visible: VisibleDep, page: ByName) -> list[CollectionView]:
    """List the collections that the caller may see, by name."""
    found = service.page(session, among=visible, after=page.key, limit=page.rows)
    return page.cut(found, lambda collection: collection.name)


@router.get("/{collection}", dependencies=[needs(Role.VIEWER)])
def show_collection(collection: CollectionDep, session: SessionDep) -> CollectionView:
    """Show a collection: its model, its method's settings, its policy, and its newest version."""
    return service.view(session, collection)


@router.patch("/{collection}/policy", dependencies=[needs(Role.ADMIN)])
def change_policy(
    change: PolicyChange, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> CollectionView:
    """Change how many approvals a batch needs, by whom, and how far a preflight goes before that."""
    return service.view(session, policy.change(session, collection, change, actor))


@router.get("/{collection}/queue", dependencies=[needs(Role.VIEWER)])
def show_queue(collection: CollectionDep, session: SessionDep) -> QueueView:
    """Show what is running and what is waiting, in the order of processing, and what each is waiting for."""
    return listing.queue(session, collection)


@router.post("/{collection}/queue", dependencies=[needs(Role.APPROVER)])
def change_queue(
    change: QueueChange, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> CollectionView:
    """Pause, drain or reopen the collection's queue."""
    return service.view(session, queue.set_queue(session, collection, change.state, actor, change.reason))
