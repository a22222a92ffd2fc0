"""/v1/collections"""

from fastapi import APIRouter

from registry.collections import policy, service
from registry.collections.schemas import CollectionView, NewCollection, PolicyChange
from registry.http import ActorDep, CollectionDep, SessionDep, VisibleDep, needs
from registry.idempotency.route import RepeatableRoute
from registry.pages import ByName
from registry.vocabulary import Role

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=RepeatableRoute)


@router.post("", status_code=201, dependencies=[needs(Role.ADMIN)])
def create_collection(new: NewCollection, session: SessionDep, actor: ActorDep) -> CollectionView:
    """Start a line of versions over a base model."""
    return service.view(session, service.create(session, new, actor))


@router.get("", dependencies=[needs(Role.VIEWER, anywhere=True)])
def list_collections(session: SessionDep, visible: VisibleDep, page: ByName) -> list[CollectionView]:
    """Those that the caller may see, by name."""
    found = service.page(session, among=visible, after=page.key, limit=page.rows)
    return page.cut(found, lambda collection: collection.name)


@router.get("/{collection}", dependencies=[needs(Role.VIEWER)])
def show_collection(collection: CollectionDep, session: SessionDep) -> CollectionView:
    """Its model, its method's settings, its policy, and what is newest in it."""
    return service.view(session, collection)


@router.patch("/{collection}/policy", dependencies=[needs(Role.ADMIN)])
def change_policy(
    change: PolicyChange, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> CollectionView:
    """Change how many approvals a batch needs, by whom, and what a worker checks before."""
    return service.view(session, policy.change(session, collection, change, actor))
