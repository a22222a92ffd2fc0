"""What is requested and how answers are processed, without any I/O: both clients carry out these exchanges.

An exchange is a generator: it yields requests, is sent their answers, and returns the result of the method that began
it. So each method of the API, and paging, is written only once.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from registry.client.errors import understood

PAGE = 1000  # records per page, if a list is longer

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Asked:
    """One request.

    content: returns the body in pieces; called again if it has to be sent again.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: Callable[[], Iterable[bytes]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    patient: bool = False  # no timeout


Exchange: TypeAlias = Generator[Asked, httpx.Response, T]


@dataclass(frozen=True)
class Lines(Generic[T]):
    """A long answer, read line by line or event by event while it arrives.

    read: gets a line, or an event's data; returns None for one that says nothing. events: the answer consists of
    server-sent events, and may break off, as when a server restarts. goes_on: gets the last item, and tells whether to
    request the answer again if it ended there. close: gets the last item, and may raise.
    """

    path: str
    read: Callable[[bytes], T | None]
    params: Mapping[str, Any] = field(default_factory=dict)
    events: bool = False
    goes_on: Callable[[T | None], bool] = lambda _: False
    close: Callable[[T | None], None] = lambda _: None
    seconds: float | None = None  # the longest silence; None: it may be silent for as long as it likes


def one(model: type[Model], method: str, path: str, **request: Any) -> Exchange[Model]:
    """Request one record.

    request: the other fields of Asked.
    """
    answer = yield Asked(method, path, **request)
    with understood():
        return model.model_validate_json(answer.content)


def many(model: type[Model], path: str, limit: int | None = None, **query: Any) -> Exchange[list[Model]]:
    """Request the first `limit` records of a list, or all of it, page by page."""
    rows: TypeAdapter[list[Model]] = TypeAdapter(list[model])  # type: ignore[valid-type]
    params = {name: value for name, value in query.items() if value is not None}
    found: list[Model] = []
    address = httpx.URL(path, params={**params, "limit": min(limit or PAGE, PAGE)})
    while True:
        answer = yield Asked("GET", str(address))
        with understood():
            found += rows.validate_json(answer.content)
        following = answer.links.get("next", {}).get("url")
        if following is None or (limit is not None and len(found) >= limit):
            return found[:limit]
        address = address.join(following)


def at(collection: str, *parts: object) -> str:
    """Return the path of a collection, or of something in it."""
    path = [collection, *(str(part) for part in parts)]
    return "/v1/collections/" + "/".join(quote(part, safe="") for part in path)


def whole_lines(rest: bytes, part: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines that a part of an answer completes, and the remainder.

    JSON may contain U+2028, which does not end a line.
    """
    *whole, rest = (rest + part).split(b"\n")
    return whole, rest
