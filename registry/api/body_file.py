"""A request's body as a file: read once, kept out of memory, and hashed while it is read.

The body is complete before the request opens a transaction, so a slow upload holds neither a lock nor a connection.
"""

from collections.abc import AsyncIterator
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Self

from fastapi import Depends, Request

IN_MEMORY = 1 << 20  # bytes; a longer body is written to disk


class BodyFile:
    def __init__(self, request: Request, file: IO[bytes]) -> None:
        self._request = request
        self._file = file
        self._digest = sha256()
        self._loaded = False

    async def loaded(self) -> Self:
        """Read the whole body, and return it once it has arrived."""
        if not self._loaded:
            self._loaded = True
            async for chunk in self._request.stream():
                self._digest.update(chunk)
                self._file.write(chunk)
        return self

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def from_start(self) -> IO[bytes]:
        """The file at its beginning, for one reader, once it is loaded."""
        self._file.seek(0)
        return self._file


async def _body_file(request: Request) -> AsyncIterator[BodyFile]:
    with SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        yield BodyFile(request, file)


BodyFileDep = Annotated[BodyFile, Depends(_body_file)]


async def loaded(body: BodyFileDep) -> BodyFile:
    """Return the body once it is complete; also usable in an endpoint's `dependencies`, before any database access."""
    return await body.loaded()


LoadedBodyDep = Annotated[BodyFile, Depends(loaded)]
