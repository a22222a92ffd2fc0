"""Lists in pages: the Link header of a page leads to the next one, by a cursor that says where this one ended.

A page begins after a key and not after a count of rows: it costs the same wherever it lies, and records that are made
meanwhile neither repeat nor hide others.
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
    """Which part of a list a request asks for."""

    def __init__(self, request: Request, response: Response, key: Key | None, limit: int) -> None:
        self._request = request
        self._response = response
        self.key = key  # of the last record on the page before; None: this is the first page
        self.limit = limit

    @property
    def rows(self) -> int:
        """How many records to read: one more than are shown tells whether another page follows."""
        return self.limit + 1

    def cut(self, found: Sequence[Row], key: Callable[[Row], Key]) -> list[Row]:
        """This page's records; where more follow, the answer says where."""
        shown = list(found[: self.limit])
        if len(found) > self.limit:
            others = [(name, value) for name, value in self._request.query_params.multi_items() if name != "cursor"]
            query = urlencode([*others, ("cursor", encoded(key(shown[-1])))])
            # Without a path, a link leads to the address that was asked, also behind a proxy that renames it.
            self._response.headers["Link"] = f'<?{query}>; rel="next"'
        return shown


def encoded(key: object) -> str:
    """A key as a cursor: base64url of its JSON. Its form is no promise, and callers hand it back as it came."""
    return urlsafe_b64encode(to_json(key)).rstrip(b"=").decode()


def decoded(cursor: str, key: TypeAdapter[Key]) -> Key:
    """Raises InvalidRequest for what this list did not hand out."""
    try:
        return key.validate_json(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), strict=True)
    except (ValueError, ValidationError):
        raise InvalidRequest(
            "The cursor is none of this list's.",
            'Take it from the Link header of the page before (rel="next"), or leave it out to begin anew.',
        ) from None


def pages(of: Any, *, limit: int = 100) -> Any:
    """A dependency: the page that a request asks for, of a list whose keys have the type `of`."""
    adapter: TypeAdapter[Any] = TypeAdapter(of)
    default = limit

    def asked(request: Request, response: Response, limit: Limit = default, cursor: Cursor = None) -> Page[Any]:
        return Page(request, response, None if cursor is None else decoded(cursor, adapter), limit)

    return Depends(asked)


ById = Annotated[Page[int], pages(Id)]
ByName = Annotated[Page[str], pages(Name)]
ByTime = Annotated[Page[datetime], pages(AwareDatetime)]
