"""Work for a request that ends when nobody waits for it any more, or when it takes too long."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request

from registry.api.body_file import LoadedBodyDep
from registry.base.errors import ClientLeft, TooLarge

LONGEST_SECONDS = 60.0  # for what is done with a submission before it is stored


class Attention:
    """Whether a request's client still waits; asked from the thread that works for it."""

    def __init__(self, seconds: float) -> None:
        self._gone = threading.Event()
        self._until = time.monotonic() + seconds

    def require(self) -> None:
        """Raise ClientLeft if the client has gone away, or TooLarge after the time for the work."""
        if self._gone.is_set():
            raise ClientLeft("The client went away, so the work for it was stopped.")
        if time.monotonic() > self._until:
            raise TooLarge(
                "To examine these records took too long; nothing was stored.",
                "Submit them in several batches, or shorter ones.",
            )

    async def watch(self, request: Request) -> None:
        """Note when the client goes away. Call it once the body is read."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._gone.set()


@asynccontextmanager
async def _watched(request: Request, seconds: float) -> AsyncIterator[Attention]:
    attention = Attention(seconds)
    watching = asyncio.create_task(attention.watch(request))
    try:
        yield attention
    finally:
        watching.cancel()


async def _reader(request: Request) -> AsyncIterator[Attention]:
    async with _watched(request, math.inf) as attention:
        yield attention


async def _submitter(request: Request, body: LoadedBodyDep) -> AsyncIterator[Attention]:
    async with _watched(request, LONGEST_SECONDS) as attention:
        yield attention


# Of a request without a body, and of a submission.
ReaderDep = Annotated[Attention, Depends(_reader, scope="function")]
SubmitterDep = Annotated[Attention, Depends(_submitter, scope="function")]
