"""What endpoints take from a request: a session, who acts, and the parameters that many of them share."""

import hmac
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, Path, Query, Request
from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.collections import service as collections
from registry.collections.models import Collection
from registry.errors import InvalidRequest, NotLocal, Unauthorized
from registry.vocabulary import Role
from registry.wire import NAME_PATTERN

_LONGEST_ACTOR = 200


def get_session(request: Request) -> Iterator[Session]:
    """One transaction per request, committed before the answer is sent, and only if nothing was raised."""
    request.app.state.schema.require_current()
    with request.app.state.sessions.begin() as session:
        yield session


# scope="function": what the client reads in the answer is committed by then.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def require_access(request: Request) -> None:
    """With a key set, requests must carry it; without one, only this machine is served. Raises what refuses.

    The Host header is checked too: a web page of elsewhere can have its own name resolve to 127.0.0.1 and would
    then speak to this API from the user's browser (DNS rebinding), but not under the name localhost.
    """
    key = request.app.state.settings.api_key
    if key is not None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode(), key.get_secret_value().encode()
        ):
            raise Unauthorized(
                "The request carries no valid API key.",
                "Send it as `Authorization: Bearer KEY`; `melo` reads it from MELO_API_KEY.",
            )
        return
    client = request.client.host if request.client else ""
    if not _is_loopback(client) or not _is_loopback(_host_of(request.headers.get("Host", ""))):
        raise NotLocal(
            "This API has no key set, so it serves only this machine, under the name localhost or 127.0.0.1.",
            "Start the API with MELO_API_KEY to serve others.",
        )


def needs(role: Role) -> Any:
    """For an endpoint's `dependencies`: whoever asks must have this role, or a higher one, where the request acts."""
    return Depends(require_access)


def _host_of(header: str) -> str:
    """The Host header without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def get_actor(request: Request) -> Actor:
    """Who acts, as the X-Melo-Actor header says (percent-encoded)."""
    name = unquote(request.headers.get("X-Melo-Actor", "")).strip() or "anonymous"
    if len(name) > _LONGEST_ACTOR or not name.isprintable():
        raise InvalidRequest(
            f"The actor's name is longer than {_LONGEST_ACTOR} characters, or has unprintable ones.",
            "Give another with `melo --as NAME`, MELO_ACTOR or the X-Melo-Actor header.",
        )
    return Actor(name, request_id=request.state.request_id)


ActorDep = Annotated[Actor, Depends(get_actor)]


def get_collection(
    collection: Annotated[str, Path(pattern=NAME_PATTERN, description="a collection's name", examples=["facts"])],
    session: SessionDep,
) -> Collection:
    return collections.get(session, collection)


CollectionDep = Annotated[Collection, Depends(get_collection)]
BatchId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="where the last page ended")]
Limit = Annotated[int, Query(ge=1, le=10_000)]
