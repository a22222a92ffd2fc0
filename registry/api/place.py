"""Where a request acts: the collection that its path or query names, or that the batch, edit or job is in."""

import re

from fastapi import Request
from sqlalchemy.orm import Session

from registry.access import repository
from registry.access.repository import OWNERS
from registry.base.wire import NAME_PATTERN


def place_of(session: Session, request: Request, query: str | None) -> tuple[str, int | None]:
    """In words, and the collection's id: None where it names none, or one that does not exist.

    query: the parameter of the query that names a collection, or a version of one, where the endpoint has such. No
    other is looked at, or whoever is an admin of one collection could add its name to any request.
    The words are the same for what does not exist: who may not see a collection is not told whether it does.
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
