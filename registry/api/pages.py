"""Paging of lists: a page's Link header leads to the next page, with a cursor that says where this one ended.

A page begins after a key rather than after a number of rows: it costs the same wherever it is, and records that are
created meanwhile neither repeat nor hide others.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic_core import to_json

from registry.base.errors import InvalidRequest
from registry.base.wire import Id, Name

LONGEST = 10_000  # rows in one page

Key = TypeVar("Key")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=LONGEST, description="the most records in one answer")]
Cursor = Annotated[
    str | None,
    Query(max_length=500, description="where the page begins, as the `next` link of the page before says",
          examples=["NDI"]),
]  # fmt: skip


class Page(Generic[Key]):
    """The part of a list that a request asks for."""

    def __init__(self, request: Request, response: Response, key: Key | None, limit: int) -> None:
        self._request = request
        self._response = response
        self.key = key  # of the last record on the previous page; None: this is the first page
        self.limit = limit

    @property
    def rows(self) -> int:
        """The number of records to read: one more than are shown, to tell whether another page follows."""
        return self.limit + 1

    def cut(self, found: Sequence[Row], key: Callable[[Row], Key]) -> list[Row]:
        """Return this page's records; if more follow, add a link to the next page to the answer."""
        shown = list(found[: self.limit])
        if len(found) > self.limit:
            others = [(name, value) for name, value in self._request.query_params.multi_items() if name != "cursor"]
            query = urlencode([*others, ("cursor", encoded(key(shown[-1])))])
            # Without a path, the link is relative to the requested address, even behind a proxy that rewrites it.
            self._response.headers["Link"] = f'<?{query}>; rel="next"'
        return shown


def encoded(key: object) -> str:
    """Encode a key as a cursor: base64url of its JSON. The form is not guaranteed; clients return it unchanged."""
    return urlsafe_b64encode(to_json(key)).rstrip(b"=").decode()


def decoded(cursor: str, key: TypeAdapter[Key]) -> Key:
    """Decode a cursor. Raises InvalidRequest if it is not one of this list's."""
    try:
        return key.validate_json(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), strict=True)
    except (ValueError, ValidationError):
        raise InvalidRequest(
            "The cursor does not belong to this list.",
            'Take it from the Link header of the page before (rel="next"), or leave it out to start over.',
        ) from None


def pages(of: Any, *, limit: int = 100) -> Any:
    """Return a dependency: the requested page of a list whose keys have the type `of`."""
    adapter: TypeAdapter[Any] = TypeAdapter(of)
    default = limit

    def asked(request: Request, response: Response, limit: Limit = default, cursor: Cursor = None) -> Page[Any]:
        return Page(request, response, None if cursor is None else decoded(cursor, adapter), limit)

    return Depends(asked)


ById = Annotated[Page[int], pages(Id)]
ByName = Annotated[Page[str], pages(Name)]
ByTime = Annotated[Page[datetime], pages(AwareDatetime)]
