"""Endpoints that create, show and compare versions in a collection; aliases; edits' logs; /v1/resolve"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime
from sqlalchemy.orm import Session

from registry.api.conditional import ConditionalDep, IfMatch, tagged
from registry.api.http import ActorDep, CollectionDep, SessionDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById, ByName, ByTime
from registry.base.vocabulary import Role
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.versions import aliases, comparing, reading, service
from registry.versions.content_lines import compressed, joined, lines_of
from registry.versions.edit_log import edit_log
from registry.versions.schemas import (
    AliasTarget,
    AliasView,
    DiffView,
    EditLogView,
    PlannedVersion,
    ResolvedView,
    Retirement,
    Reversion,
    Rollback,
    VersionAtView,
    VersionDetail,
    VersionView,
)

router = APIRouter(prefix="/v1", tags=["versions"], route_class=RepeatableRoute)
of_collection = APIRouter(prefix="/collections/{collection}", route_class=RepeatableRoute)

LINES = "application/x-ndjson"
CONTENT = {"schema": {"type": "string"}, "example": '["version", {"number": 3, "counts": {"edit": 12, …}, …}]\n'}

Number = Annotated[int, Query(ge=0, le=2**31 - 1, description="a version's number; 0: the base model")]
Moment = Annotated[AwareDatetime, Query(description="ISO 8601, with a zone", examples=["2026-11-17T14:05:00Z"])]
AliasName = Annotated[str, Path(max_length=100, examples=["production"])]


@of_collection.get("/versions", dependencies=[needs(Role.VIEWER)])
def list_versions(collection: CollectionDep, session: SessionDep, page: ById) -> list[VersionView]:
    """List a collection's versions, newest first."""
    found = reading.page(session, collection, before=page.key, limit=page.rows)
    return page.cut(found, lambda version: version.number)


@of_collection.get("/versions/at", dependencies=[needs(Role.VIEWER)])
def show_version_at(time: Moment, collection: CollectionDep, session: SessionDep) -> VersionAtView:
    """Show the version that was newest at a given time."""
    return reading.view_at(session, collection, time)


@of_collection.get("/versions/{number}", dependencies=[needs(Role.VIEWER)])
def show_version(
    number: Annotated[int, Path(ge=1, le=2**31 - 1)],
    collection: CollectionDep,
    session: SessionDep,
    conditional: ConditionalDep,
) -> VersionDetail:
    """Show what a version holds and changed, and who made it and why. The version never changes; its aliases may."""
    return conditional.answer(reading.show(session, collection, number))


@of_collection.get(
    "/versions/{number}/content",
    dependencies=[needs(Role.VIEWER)],
    response_class=StreamingResponse,
    responses={200: {"content": {LINES: CONTENT}, "description": "a record a line: the version, then what it holds"}},
)
def read_version_content(
    number: Annotated[int, Path(ge=0, le=2**31 - 1, description="a version's number; 0: the base model")],
    collection: CollectionDep,
    session: SessionDep,
    accept_encoding: Annotated[str, Header(max_length=1000, examples=["gzip"])] = "",
) -> StreamingResponse:
    """Read all that a server of this version needs but for its blocks, as lines of JSON; with gzip if wanted."""
    lines = lines_of(reading.content(session, collection, number))
    if "gzip" in accept_encoding:
        return StreamingResponse(compressed(lines), media_type=LINES, headers={"Content-Encoding": "gzip"})
    return StreamingResponse(joined(lines), media_type=LINES)


@of_collection.get("/diff", dependencies=[needs(Role.VIEWER)])
def compare_versions(
    a: Number,
    b: Number,
    collection: CollectionDep,
    session: SessionDep,
    conditional: ConditionalDep,
    limit: Annotated[int, Query(ge=0, le=10_000, description="the most edits of a kind in the answer")] = 100,
) -> DiffView:
    """Compare versions a and b: how much changed, and which edits, at most `limit` of each kind."""
    return conditional.answer(comparing.diff(session, collection, a, b, limit=limit))


@router.get("/edits/{edit_id}/log", dependencies=[needs(Role.VIEWER)])
def show_edit_log(edit_id: Annotated[int, Path(ge=1, le=2**63 - 1)], session: SessionDep) -> EditLogView:
    """Show an edit's life: submitted, decided on, applied in a version, replaced, retired, reverted, rolled back."""
    return edit_log(session, edit_id)


@of_collection.post("/retire", dependencies=[needs(Role.APPROVER)])
def retire_edits(
    retirement: Retirement, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> VersionView | PlannedVersion:
    """Create a version in which the edits are no longer active. Nothing is trained."""
    return _made(
        session,
        collection,
        lambda: service.retire(session, collection, retirement.edits, actor, retirement.reason),
        dry_run=retirement.dry_run,
    )


@of_collection.post("/rollback", dependencies=[needs(Role.APPROVER)])
def roll_back(
    rollback: Rollback, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> VersionView | PlannedVersion:
    """Create a version whose content equals an older one's. Nothing is trained, and all versions stay reachable."""
    return _made(
        session,
        collection,
        lambda: service.rollback(session, collection, rollback.to, actor, rollback.reason),
        dry_run=rollback.dry_run,
    )


@of_collection.post("/revert", dependencies=[needs(Role.APPROVER)])
def revert_version(
    reversion: Reversion, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> VersionView | PlannedVersion:
    """Create a version that undoes what one version changed. Nothing is trained."""
    return _made(
        session,
        collection,
        lambda: service.revert(session, collection, reversion.version, actor, reversion.reason),
        dry_run=reversion.dry_run,
    )


def _made(
    session: Session, collection: Collection, make: Callable[[], Version], *, dry_run: bool
) -> VersionView | PlannedVersion:
    """Return the new version or, after a dry run, what it would have been, with everything rolled back."""
    if not dry_run:
        return reading.view(session, collection, make())
    with session.begin_nested() as savepoint:
        version = make()
        planned = PlannedVersion(
            number=version.number, diff=comparing.diff(session, collection, version.number - 1, version.number)
        )
        savepoint.rollback()
    return planned


@of_collection.get("/aliases", dependencies=[needs(Role.VIEWER)])
def list_aliases(collection: CollectionDep, session: SessionDep, page: ByName) -> list[AliasView]:
    """List where each alias points now, by name."""
    found = aliases.page(session, collection, after=page.key, limit=page.rows)
    return aliases.views(session, collection, page.cut(found, lambda alias: alias.name))


@of_collection.get("/aliases/{name}", dependencies=[needs(Role.VIEWER)])
def show_alias(
    name: AliasName, collection: CollectionDep, session: SessionDep, conditional: ConditionalDep
) -> AliasView:
    """Show where an alias points now. Its ETag can be the If-Match of the request that moves it."""
    return conditional.answer(AliasView.model_validate(aliases.get(session, collection, name)))


@of_collection.put("/aliases/{name}", dependencies=[needs(Role.APPROVER)])
def set_alias(
    name: AliasName,
    to: AliasTarget,
    collection: CollectionDep,
    session: SessionDep,
    actor: ActorDep,
    response: Response,
    if_match: IfMatch = None,
) -> AliasView:
    """Point an alias at a version, and perhaps at a second as its canary or shadow; its history keeps what was."""
    alias = aliases.set_alias(
        session, collection, name, to.version, actor, to.reason, second=to.second, share=to.share, if_match=if_match
    )
    session.refresh(alias)
    return tagged(response, AliasView.model_validate(alias))


@of_collection.get("/aliases/{name}/history", dependencies=[needs(Role.VIEWER)])
def show_alias_history(
    name: AliasName, collection: CollectionDep, session: SessionDep, page: ByTime
) -> list[AliasView]:
    """Show where an alias pointed, since when and until when, newest first."""
    found = aliases.history(session, collection, name, before=page.key, limit=page.rows)
    return aliases.views(session, collection, page.cut(found, lambda alias: alias.set_at))


@of_collection.get("/aliases/{name}/at", dependencies=[needs(Role.VIEWER)])
def show_alias_at(
    name: AliasName,
    time: Moment,
    collection: CollectionDep,
    session: SessionDep,
) -> AliasView:
    """Show where an alias pointed at a given time, and who set it, when and why."""
    (view,) = aliases.views(session, collection, [aliases.pointed_at(session, collection, name, time)])
    return view


@router.get("/resolve", dependencies=[needs(Role.VIEWER, query="model")])
def resolve_model(
    model: Annotated[str, Query(max_length=200, examples=["facts@production"])],
    session: SessionDep,
    conditional: ConditionalDep,
) -> ResolvedView:
    """Resolve a model name to the version that it means now."""
    return conditional.answer(reading.resolved_view(session, model))


router.include_router(of_collection)
