"""ETags: a tag for every answer, and whether a request names the current one.

The tag is a digest over the whole answer, not just a version's content digest: an answer also says which aliases point
at the version, and may lose an edit's text to an erasure.
"""

from pydantic import BaseModel

from registry.base.digests import sha256_hex
from registry.base.errors import MovedMeanwhile

_DIGITS = 32


def tag_of(view: BaseModel) -> str:
    """Return a strong ETag, which differs for every other answer."""
    return f'"{sha256_hex(view.model_dump_json().encode())[:_DIGITS]}"'


def require_match(expected: str | None, current: BaseModel | None, name: str) -> None:
    """Raise MovedMeanwhile unless the request names the current state. Call it with what is to change locked.

    expected: the If-Match header, or None if the client does not care.
    """
    if expected is None or (current is not None and is_named(expected, tag_of(current))):
        return
    raise MovedMeanwhile(
        f"{name} is no longer what the request's If-Match names." if current else f"{name} does not exist yet.",
        "Read it again and, if the change is still right, send it with the new ETag.",
    )


def is_named(header: str, tag: str) -> bool:
    """Return whether the tag is in a list of tags; `*` stands for any."""
    given = [each.strip() for each in header.split(",")]
    return "*" in given or tag in (each.removeprefix("W/") for each in given)
