"""Ends a request that is still being answered when its caller's key expires, is revoked, or may do less."""

import asyncio
from collections.abc import Callable

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.access.caller import Caller
from registry.base.errors import Unauthorized

log = structlog.get_logger("melo.api")

SECONDS = 1.0  # between two looks at a key


class Watch:
    """Looks at one caller's key while a request is answered.

    To the application, an end looks as if the client had gone away, which everything that streams an answer handles.
    The client sees the connection break off, so that a part of an answer is never taken for the whole.
    """

    def __init__(self, look: Callable[[], Caller], admitted: Caller) -> None:
        """look: returns whose the key is now, or raises Unauthorized; it may block. admitted: whose it was."""
        self._look, self._admitted = look, admitted
        self._ended = asyncio.Event()
        self.refusal: Unauthorized | None = None
        self.started = False  # the answer began before the end

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        has_body = True

        async def receive_until_end() -> Message:
            nonlocal has_body
            if has_body:
                message = await receive()
                has_body = message["type"] == "http.request" and message.get("more_body", False)
                return message
            return await self._or_end(receive)

        async def send_until_end(message: Message) -> None:
            if self.refusal is None:
                self.started = True
                await send(message)

        watching = asyncio.create_task(self._watch())
        try:
            await app(scope, receive_until_end, send_until_end)
        finally:
            watching.cancel()

    async def _or_end(self, receive: Receive) -> Message:
        message, ended = asyncio.ensure_future(receive()), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({message, ended}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            ended.cancel()

    async def _watch(self) -> None:
        while self.refusal is None:
            await asyncio.sleep(SECONDS)
            try:
                self._require_same(await run_in_threadpool(self._look))
            except Unauthorized as error:
                self.refusal = error
            except Exception as error:  # the database is away: the key was valid
                log.warning("a key cannot be looked up for now", error=str(error))
        log.info("a request ends with its key", reason=self.refusal.detail)
        self._ended.set()

    def _require_same(self, now: Caller) -> None:
        for where, role in self._admitted.roles.items():
            held = now.role_in(where)
            if held is None or not held.covers(role):
                raise Unauthorized("The API key may do less than when the request began.", "Make the request again.")
