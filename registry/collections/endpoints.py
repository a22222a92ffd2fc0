"""/v1/collections"""

from fastapi import APIRouter

from registry.collections import service
from registry.collections.schemas import CollectionView, NewCollection
from registry.http import ActorDep, CollectionDep, SessionDep

router = APIRouter(prefix="/v1/collections", tags=["collections"])


@router.post("", status_code=201)
def create_collection(new: NewCollection, session: SessionDep, actor: ActorDep) -> CollectionView:
    """Start a line of versions over a base model."""
    return service.view(session, service.create(session, new, actor))


@router.get("")
def list_collections(session: SessionDep) -> list[CollectionView]:
    return service.views(session)


@router.get("/{collection}")
def show_collection(collection: CollectionDep, session: SessionDep) -> CollectionView:
    return service.view(session, collection)
