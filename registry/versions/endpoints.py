"""/v1/collections/{collection}/versions, /diff, /retire, /rollback and /aliases; /v1/resolve"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from registry.collections.models import Collection
from registry.http import ActorDep, Before, CollectionDep, Limit, SessionDep
from registry.versions import aliases, reading, service
from registry.versions.models import Alias, Version
from registry.versions.schemas import (
    AliasTarget,
    AliasView,
    DiffView,
    PlannedVersion,
    ResolvedView,
    Retirement,
    Rollback,
    VersionView,
)

router = APIRouter(prefix="/v1", tags=["versions"])
of_collection = APIRouter(prefix="/collections/{collection}")

Number = Annotated[int, Query(ge=0, le=2**31 - 1, description="a version's number; 0: the base model")]
AliasName = Annotated[str, Path(max_length=100, examples=["production"])]


@of_collection.get("/versions")
def list_versions(
    collection: CollectionDep, session: SessionDep, before: Before = None, limit: Limit = 100
) -> list[VersionView]:
    """Newest first."""
    return reading.page(session, collection, before=before, limit=limit)


@of_collection.get("/versions/{number}")
def show_version(
    number: Annotated[int, Path(ge=1, le=2**31 - 1)], collection: CollectionDep, session: SessionDep
) -> VersionView:
    return reading.view(session, collection, service.get(session, collection, number))


@of_collection.get("/diff")
def compare_versions(a: Number, b: Number, collection: CollectionDep, session: SessionDep) -> DiffView:
    """What changed from version a to version b."""
    return reading.diff(session, collection, a, b)


@of_collection.post("/retire")
def retire_edits(
    retirement: Retirement, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> VersionView | PlannedVersion:
    """Make a version in which edits no longer act. Nothing is trained."""
    return _made(
        session,
        collection,
        lambda: service.retire(session, collection, retirement.edits, actor, retirement.reason),
        dry_run=retirement.dry_run,
    )


@of_collection.post("/rollback")
def roll_back(
    rollback: Rollback, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> VersionView | PlannedVersion:
    """Make a version whose content equals an older one's. Nothing is trained, and nothing becomes unreachable."""
    return _made(
        session,
        collection,
        lambda: service.rollback(session, collection, rollback.to, actor, rollback.reason),
        dry_run=rollback.dry_run,
    )


def _made(
    session: Session, collection: Collection, make: Callable[[], Version], *, dry_run: bool
) -> VersionView | PlannedVersion:
    """The version; after a dry run, what it would have been, with everything taken back."""
    if not dry_run:
        return reading.view(session, collection, make())
    with session.begin_nested() as savepoint:
        version = make()
        planned = PlannedVersion(
            number=version.number, diff=reading.diff(session, collection, version.number - 1, version.number)
        )
        savepoint.rollback()
    return planned


@of_collection.get("/aliases", response_model=list[AliasView])
def list_aliases(collection: CollectionDep, session: SessionDep) -> list[Alias]:
    return list(aliases.list_aliases(session, collection))


@of_collection.put("/aliases/{name}", response_model=AliasView)
def set_alias(
    name: AliasName, to: AliasTarget, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> Alias:
    """Point a name at a version; where it pointed before stays in its history."""
    alias = aliases.set_alias(session, collection, name, to.version, actor, to.reason)
    session.refresh(alias)
    return alias


@of_collection.get("/aliases/{name}/history", response_model=list[AliasView])
def show_alias_history(name: AliasName, collection: CollectionDep, session: SessionDep) -> list[Alias]:
    """Newest first."""
    return list(aliases.history(session, collection, name))


@router.get("/resolve")
def resolve_model(
    model: Annotated[str, Query(max_length=200, examples=["facts@production"])], session: SessionDep
) -> ResolvedView:
    """The version that a model name means at this moment."""
    found = reading.resolve(session, model)
    return ResolvedView(collection=found.collection.name, number=found.number, content_digest=found.content_digest)


router.include_router(of_collection)
