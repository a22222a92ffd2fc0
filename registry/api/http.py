"""What endpoints get from a request: a session, the actor and role, and parameters that many of them share."""

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from registry.access import repository
from registry.access.caller import Caller
from registry.access.names import require_distinct
from registry.api.bodies import BoundedRoute
from registry.audit.actor import Actor
from registry.base.errors import RoleNeeded
from registry.base.vocabulary import Role
from registry.base.wire import NAME_PATTERN
from registry.collections import service as collections
from registry.tables.collections import Collection

# Fewer than the pool's connections: the rest is for what takes one and gives it back within one thread.
MOST_TRANSACTIONS = 16


async def get_session(request: Request) -> AsyncIterator[Session]:
    """Yield one transaction per request, committed before the answer is sent, and only if nothing was raised.

    A request waits here for its turn, without a thread. Otherwise requests that wait for a connection could take all
    threads, and those that have one could not go on and give it back.
    """
    async with request.app.state.turns, contextmanager_in_threadpool(_transaction(request)) as session:
        yield session


@contextmanager
def _transaction(request: Request) -> Iterator[Session]:
    request.app.state.schema.require_current()
    with request.app.state.sessions.begin() as session:
        yield session


# scope="function": the transaction is committed before the client reads the answer.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


class Needs:
    """The roles that an endpoint needs; the one place where roles are compared with what a request does."""

    def __init__(self, role: Role, *, query: str | None, anywhere: bool) -> None:
        self.role = role
        self.query = query
        self.anywhere = anywhere

    async def __call__(self, request: Request) -> None:
        """Confirm that the route was a GuardedRoute, which has required the role before it read the body."""
        assert request.state.role

    def require(self, request: Request) -> None:
        """Require the role, and store the role that the caller acts in for get_actor. Raises RoleNeeded."""
        caller: Caller = request.state.caller
        role = caller.highest if self.anywhere else caller.role_in(None)
        words = "any collection" if self.anywhere else "all collections"
        # The place is looked up if the caller may have a higher role there, or for the text of a refusal.
        elsewhere = caller.roles.keys() - {None} or not (role and role.covers(self.role))
        if elsewhere and not self.anywhere:
            request.app.state.schema.require_current()
            with request.app.state.sessions() as session:
                words, collection_id = _place_of(session, request, self.query)
            role = caller.role_in(collection_id)
        if role is None or not role.covers(self.role):
            raise RoleNeeded(
                f"This needs the role {self.role} in {words}; {caller.name} has {role or 'no role'} there.",
                "Ask an admin for a key that has it (`melo key create`).",
            )
        request.state.role = role


class GuardedRoute(BoundedRoute):
    """A route that requires its role before anything of the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        needed = [each.dependency for each in self.dependencies if isinstance(each.dependency, Needs)]

        async def handle_guarded(request: Request) -> Response:
            for needs in needed:
                await run_in_threadpool(needs.require, request)
            return await handle(request)

        return handle_guarded


def _place_of(session: Session, request: Request, query: str | None) -> tuple[str, int | None]:
    """Return where a request acts, in words, and that collection's id, or None if it names no existing collection.

    That is the collection in its path or query, or that of its batch, edit, job or feedback. query: the query parameter
    that names a collection or a version of one, if the endpoint has one. No other parameter is considered, or an admin
    of one collection could add its name to any request. The words are the same for a collection that does not exist: a
    caller who may not see it is not told whether it does.
    """
    name = request.path_params.get("collection")
    if name is None and query is not None and query in request.query_params:
        name = request.query_params[query].partition("@")[0]
    if name is not None:
        known = repository.collection_named(session, name) if re.fullmatch(NAME_PATTERN, name) else None
        return f"collection {name!r}", known
    for kind in repository.OWNERS.keys() & request.path_params.keys():
        number = request.path_params[kind]
        fits = number.isascii() and number.isdigit() and len(number) < 19
        words = f"the collection of {kind.removesuffix('_id')} {number!r}"
        return words, repository.collection_of(session, kind, int(number)) if fits else None
    return "all collections", None


def needs(role: Role, *, query: str | None = None, anywhere: bool = False) -> Any:
    """Require, in an endpoint's `dependencies`, this role or a higher one where the request acts.

    That is the collection that the path names, or that its batch_id, edit_id, job_id or feedback_id belongs to. If
    there is none, it is all collections. query: the query parameter that names a collection or a version of one, if
    the endpoint has one. anywhere: a role in any collection is enough; the endpoint then shows only what is in those
    collections (see VisibleDep and CallerDep).
    """
    return Depends(Needs(role, query=query, anywhere=anywhere))


def get_actor(request: Request, session: SessionDep) -> Actor:
    """Return the actor, with the role in which they act. Raises InvalidRequest for a name that looks like another's."""
    caller: Caller = request.state.caller
    require_distinct(session, [caller.actor])
    return Actor(caller.actor, role=request.state.role, request_id=request.state.request_id)


ActorDep = Annotated[Actor, Depends(get_actor)]


def get_visible(request: Request) -> frozenset[int] | None:
    """Return the collections that the caller may see, or None for all."""
    caller: Caller = request.state.caller
    return caller.collections


def get_caller(request: Request) -> Caller:
    """Return the caller, for an endpoint that finds out by itself where it acts."""
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
VisibleDep = Annotated[frozenset[int] | None, Depends(get_visible)]


def get_collection(
    collection: Annotated[str, Path(pattern=NAME_PATTERN, description="a collection's name", examples=["facts"])],
    session: SessionDep,
) -> Collection:
    return collections.get(session, collection)


CollectionDep = Annotated[Collection, Depends(get_collection)]
BatchId = Annotated[int, Path(ge=1, le=2**63 - 1)]
EditId = Annotated[int, Path(ge=1, le=2**63 - 1)]
FeedbackId = Annotated[int, Path(ge=1, le=2**63 - 1)]
JobId = Annotated[int, Path(ge=1, le=2**63 - 1)]
