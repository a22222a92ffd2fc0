"""The place where a request acts: the collection in its path or query, or that of its batch, edit or job."""

import re

from fastapi import Request
from sqlalchemy.orm import Session

from registry.access import repository
from registry.access.repository import OWNERS
from registry.base.wire import NAME_PATTERN


def place_of(session: Session, request: Request, query: str | None) -> tuple[str, int | None]:
    """Return the place in words, and the collection's id, or None if the request names no existing collection.

    query: the query parameter that names a collection or a version of one, if the endpoint has one. No other parameter
    is considered, or an admin of one collection could add its name to any request. The words are the same for a
    collection that does not exist: a caller who may not see it is not told whether it does.
    """
    name = request.path_params.get("collection")
    if name is None and query is not None and query in request.query_params:
        name = request.query_params[query].partition("@")[0]
    if name is not None:
        known = repository.collection_named(session, name) if re.fullmatch(NAME_PATTERN, name) else None
        return f"collection {name!r}", known
    for kind in OWNERS.keys() & request.path_params.keys():
        number = request.path_params[kind]
        fits = number.isascii() and number.isdigit() and len(number) < 19
        words = f"the collection of {kind.removesuffix('_id')} {number!r}"
        return words, repository.collection_of(session, kind, int(number)) if fits else None
    return "all collections", None
