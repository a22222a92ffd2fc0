"""Conditional requests (RFC 9110 §13): ETags, 304 for a current copy, and 412 for a state that has changed.

An answer may be cached but must be revalidated each time (`no-cache`), because it also contains what changes without a
new version, such as aliases. An unchanged answer costs a few bytes.
"""

from typing import Annotated, TypeVar

from fastapi import Depends, Header, Response
from pydantic import BaseModel

from registry.base.etags import is_named, tag_of

CACHED = "private, no-cache"

_EXAMPLE = '"9f86d081884c7d659a2feaa0c55ad015"'

View = TypeVar("View", bound=BaseModel)

IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", max_length=1000, description="the ETag of an answer that the client has",
           examples=[_EXAMPLE]),
]  # fmt: skip
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", max_length=1000, description="the ETag that the present answer must still have",
           examples=[_EXAMPLE]),
]  # fmt: skip


class NotModified(Exception):
    """The client already has this answer."""

    def __init__(self, tag: str, cache_control: str = CACHED) -> None:
        super().__init__(tag)
        self.headers = {"ETag": tag, "Cache-Control": cache_control}


def tagged(response: Response, view: View) -> View:
    """Return the view, and send it with its ETag."""
    response.headers["ETag"] = tag_of(view)
    response.headers["Cache-Control"] = CACHED
    return view


class Conditional:
    """The copies that a client says it has, in a reading request."""

    def __init__(self, response: Response, if_none_match: IfNoneMatch = None) -> None:
        self._response = response
        self._known = if_none_match

    def answer(self, view: View) -> View:
        """Return the view, and send it with its ETag. Raises NotModified if the client has it."""
        if self._known is not None and is_named(self._known, tag_of(view)):
            raise NotModified(tag_of(view))
        return tagged(self._response, view)


ConditionalDep = Annotated[Conditional, Depends(Conditional)]
