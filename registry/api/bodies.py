"""Routes that read their bodies within bounds: of bytes, and of what JSON may hold."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from registry.base.errors import InvalidRequest, RegistryError, TooLarge, TooSlow, WrongMediaType
from registry.base.json_bounds import Bounds, OutOfBounds
from registry.base.settings import Settings

USUAL_BYTES = 2 << 20  # 100,000 ids fit
SLOWEST_SECONDS = 30.0  # between two parts of a body,
LONGEST_SECONDS = 600.0  # and for all of it
_PARSED_AT_ONCE = 64 << 10  # bytes; longer ones are parsed beside the event loop


class BodyRefused(HTTPException):
    """A refusal while a body is read. FastAPI passes on no other exceptions of that time."""

    def __init__(self, error: RegistryError) -> None:
        super().__init__(error.status, error.detail)
        self.error = error


class BodyUpTo:
    """How many bytes a route's body may have; a dependency of the route, which BoundedRoute reads."""

    def __init__(self, most: int | None) -> None:
        self.most = most

    async def __call__(self) -> None:
        return None


def body_up_to(most: int | None) -> Any:
    """Allow another size of body, in an endpoint's `dependencies`; None: as much as MELO_MAX_REQUEST_BYTES says."""
    return Depends(BodyUpTo(most))


class BoundedRequest(Request):
    """A request whose body has at most so many bytes, and whose JSON keeps within bounds."""

    def __init__(self, request: Request, most: int) -> None:
        super().__init__(request.scope, _within(request, most))
        self._bounds = Bounds(characters=max(Bounds.characters, most), halves=False)

    async def json(self) -> Any:
        """Return the body, parsed. Raises BodyRefused or json.JSONDecodeError."""
        text = await self.body()
        try:
            if len(text) <= _PARSED_AT_ONCE:
                return self._bounds.parse(text)
            return await run_in_threadpool(self._bounds.parse, text)
        except OutOfBounds as error:
            raise BodyRefused(InvalidRequest(f"The body holds {error}.", "Send other or less JSON.")) from None


class BoundedRoute(APIRoute):
    """A route that refuses a body over its limit as soon as its size is known, whether announced or streamed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        (most,) = {each.dependency.most for each in self.dependencies if isinstance(each.dependency, BodyUpTo)} or {
            USUAL_BYTES
        }

        async def handle_bounded(request: Request) -> Response:
            settings: Settings = request.app.state.settings
            limit = settings.max_request_bytes if most is None else min(most, settings.max_request_bytes)
            return await handle(BoundedRequest(request, limit))

        return handle_bounded


def _within(request: Request, most: int) -> Receive:
    announced = request.headers.get("Content-Length", "0")
    packed = request.headers.get("Content-Encoding", "identity")
    received, is_whole, until = 0, False, math.inf

    async def receive() -> Message:
        nonlocal received, is_whole, until
        if is_whole:  # what comes now is the client's leaving
            return await request.receive()
        if announced.isdigit() and int(announced) > most:
            raise BodyRefused(_too_large(most))
        if packed.lower() != "identity":
            raise BodyRefused(WrongMediaType(f"The body is packed as {packed[:40]}.", "Send it as it is."))
        now = asyncio.get_running_loop().time()
        until = min(until, now + LONGEST_SECONDS)
        try:
            async with asyncio.timeout(min(SLOWEST_SECONDS, until - now)):
                message = await request.receive()
        except TimeoutError:
            raise BodyRefused(_too_slow()) from None
        received += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if received > most:
            raise BodyRefused(_too_large(most))
        return message

    return receive


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"The request is larger than {most:,} bytes.",
        "Submit the records in several batches, or raise MELO_MAX_REQUEST_BYTES, which limits submissions.",
    )


def _too_slow() -> TooSlow:
    return TooSlow(
        f"Nothing of the body came for {SLOWEST_SECONDS:.0f} seconds, or not all of it within {LONGEST_SECONDS:.0f}.",
        "Send it again, in several parts where the line is slow.",
    )
