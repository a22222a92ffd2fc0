"""/v1/blocks"""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from registry.api.conditional import IfNoneMatch, NotModified
from registry.api.http import GuardedRoute, SessionDep, VisibleDep, needs
from registry.base.etags import is_named
from registry.base.vocabulary import Role
from registry.versions import blocks

router = APIRouter(prefix="/v1/blocks", tags=["versions"], route_class=GuardedRoute)

FOREVER = "private, max-age=31536000, immutable"  # a digest never names anything else
BYTES = {"schema": {"type": "string", "format": "binary"}, "example": "safetensors: A and B of each module"}

Digest = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{64}$",
        description="the SHA-256 of the block's bytes",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]


@router.get(
    "/{sha256}",
    dependencies=[needs(Role.VIEWER, anywhere=True)],
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": BYTES}, "description": "the block's bytes"}},
)
def read_block(sha256: Digest, session: SessionDep, visible: VisibleDep, if_none_match: IfNoneMatch = None) -> Response:
    """Return a block's bytes by their digest: to keys that may see a collection with a version that has the block."""
    data, tag = blocks.read(session, sha256, visible), f'"{sha256}"'
    if if_none_match is not None and is_named(if_none_match, tag):
        raise NotModified(tag, FOREVER)
    headers = {"ETag": tag, "Cache-Control": FOREVER}
    return Response(data, media_type="application/octet-stream", headers=headers)
