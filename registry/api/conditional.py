"""Conditional requests (RFC 9110 §13): ETags, 304 for what a client has already, 412 for what moved meanwhile.

The tag is a digest over the whole answer and not a version's content digest alone: an answer also says which aliases
point at the version, and may lose an edit's text to an erasure. For the same reason an answer may be kept, but is asked
for again each time (`no-cache`): an unchanged one costs a few bytes.
"""

from typing import Annotated, TypeVar

from fastapi import Depends, Header, Response
from pydantic import BaseModel

from registry.base.digests import sha256_hex
from registry.base.errors import MovedMeanwhile

CACHED = "private, no-cache"
_DIGITS = 32

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
    """The client has the answer already."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.headers = {"ETag": tag, "Cache-Control": CACHED}


def tag_of(view: BaseModel) -> str:
    """A strong ETag: another one for every other answer."""
    return f'"{sha256_hex(view.model_dump_json().encode())[:_DIGITS]}"'


def tagged(response: Response, view: View) -> View:
    """The answer, sent with its tag."""
    response.headers["ETag"] = tag_of(view)
    response.headers["Cache-Control"] = CACHED
    return view


class Conditional:
    """What a reading request says about the answer that it knows."""

    def __init__(self, response: Response, if_none_match: IfNoneMatch = None) -> None:
        self._response = response
        self._known = if_none_match

    def answer(self, view: View) -> View:
        """The answer with its tag. Raises NotModified where the client has it."""
        if self._known is not None and _names(self._known, tag_of(view)):
            raise NotModified(tag_of(view))
        return tagged(self._response, view)


def require_match(expected: str | None, current: BaseModel | None, name: str) -> None:
    """Raises MovedMeanwhile unless the request names the present state. Call it under the lock of what is to change.

    expected: the If-Match header; None: the client does not care.
    """
    if expected is None or (current is not None and _names(expected, tag_of(current))):
        return
    raise MovedMeanwhile(
        f"{name} is no longer what the request's If-Match names." if current else f"{name} does not exist yet.",
        "Read it again; where the change is still right, send it with the ETag that the answer has now.",
    )


def _names(header: str, tag: str) -> bool:
    """Whether a list of tags has this one; `*` stands for any."""
    given = [each.strip() for each in header.split(",")]
    return "*" in given or tag in (each.removeprefix("W/") for each in given)


ConditionalDep = Annotated[Conditional, Depends(Conditional)]
