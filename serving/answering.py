"""Answers to a request, whole or streamed, with where each came from."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

import structlog
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from melo_core.edited_model import Route
from registry.base.errors import ClientLeft
from serving.canary import Chosen
from serving.log import AnswerLog, Asking
from serving.router import Asked, Piece, Router, Wanted
from serving.served import Served
from serving.shapes import Said, Shape, Usage
from worker.provenance import provenance as provenance_of

log = structlog.get_logger("melo.serve")

Result = TypeVar("Result")


def provenance(version: Served, route: Route, *, acted: bool) -> dict[str, Any]:
    """Return version and digest, the edit that acts, and the edits that were considered with the reasons."""
    return provenance_of(version.content, version.settings, route, version.edit(route) if acted else None)


class Answering:
    """The answers to one request. A choice is one of several answers, each with its own prompt."""

    def __init__(self, request: Request, chosen: Chosen, asked: Sequence[Asked], wanted: Wanted, shape: Shape) -> None:
        self.request, self.metrics = request, request.app.state.metrics
        self.router: Router = request.app.state.router
        self.chosen, self.asked, self.wanted, self.shape = chosen, asked, wanted, shape
        self.said = [Said() for _ in asked]
        self.asking = Asking(shape.id, shape.model, request.state.caller.actor)

    async def respond(self, *, stream: bool) -> Response:
        for asked in self.asked:
            self.router.room(asked, self.wanted.limit)
        pieces = self._pieces()
        first = await anext(pieces)  # what can be refused is refused before the answer begins
        headers = self._headers()
        if stream:
            grace = self.request.app.state.settings.stop_seconds  # told to stop, the server ends what it has begun
            events = self._events(first, pieces)
            return EventSourceResponse(events, headers=headers, sep="\n", shutdown_grace_period=grace)
        answering = asyncio.create_task(self._whole(first, pieces))
        leaving = asyncio.create_task(_gone(self.request))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return Response(status_code=499)  # nobody reads it; what is generated for nobody ends
            return JSONResponse(answering.result(), headers=self._headers())
        finally:
            answering.cancel()
            leaving.cancel()

    async def _whole(self, first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]) -> dict[str, Any]:
        async for index, piece in _chained(first, rest):
            self.said[index].add(piece)
        self._log()
        return {**self.shape.whole(self.said, self._usage()), "melo": self._melo()}

    async def _events(
        self, first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]
    ) -> AsyncIterator[dict[str, str]]:
        shape, begun, left = self.shape, set[int](), len(self.asked)
        try:
            async for index, piece in _chained(first, rest):
                self.said[index].add(piece)
                if index not in begun:
                    begun.add(index)
                    for event in shape.begin(index):
                        yield event
                if piece.text or piece.tokens:
                    for event in shape.more(index, piece):
                        yield event
                if piece.ended:
                    left -= 1
                    if not left:
                        self._log()
                    for event in shape.end(index, self.said[index], {} if left else {"melo": self._melo()}):
                        yield event
            for event in shape.finish(self.said, self._usage(), self._melo()):
                yield event
        except Exception as error:
            log.exception("an answer broke off")
            for event in shape.broken(error):
                yield event
        finally:
            if left:  # what a reader saw of it before it broke off, or before the reader went away
                self._log()

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield the pieces of all choices as they come."""
        arrived = asyncio.Queue[tuple[int, Piece | Exception | None]]()

        async def read(index: int, asked: Asked) -> None:
            try:
                async for piece in self.router.answer(asked, self.wanted, index):
                    await arrived.put((index, piece))
                await arrived.put((index, None))
            except Exception as error:
                await arrived.put((index, error))

        tasks = [asyncio.create_task(read(index, asked)) for index, asked in enumerate(self.asked)]
        try:
            left, started = len(tasks), False
            while left:
                index, piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    left -= 1
                    continue
                if not started:
                    started = True
                    self.metrics.first_token.observe(self.asking.first_text())
                yield index, piece
            usage = self._usage()
            self.metrics.answered(usage.prompt, usage.completion)
            self._shadow()
        finally:
            for task in tasks:
                task.cancel()

    def _shadow(self) -> None:
        """Have each prompt's answer compared, where the alias has a shadow."""
        for asked in {id(asked): asked for asked in self.asked}.values():
            self.request.app.state.shadows.offer(self.chosen.pointing, asked, self.wanted)

    def _log(self) -> None:
        """Log the answers, as far as anything was told of them."""
        given = zip(self.asked, self.said, strict=True)
        answers = [
            self.asking.answered(choice, asked, said.text, len(said.tokens), canary=self.chosen.canary)
            for choice, (asked, said) in enumerate(given)
            if said.text or said.ended
        ]
        answer_log: AnswerLog = self.request.app.state.log
        answer_log.add(answers)

    def _usage(self) -> Usage:
        """Return the tokens of the prompts, each counted once, and of the answers."""
        prompts = {id(asked): len(asked.ids) for asked in self.asked}
        return Usage(sum(prompts.values()), sum(len(said.tokens) for said in self.said))

    def _melo(self) -> dict[str, Any]:
        """Return where the answer came from; of several prompts, where each did."""
        several = {id(asked): asked for asked in self.asked}.values()
        told = []
        for asked in several:
            said_to = asked.said_to if asked.route.block is not None else None
            more = {"said_to": said_to, "canary": self.chosen.canary}
            told.append({**provenance(asked.served, asked.route, acted=asked.edit is not None), **more})
        return told[0] if len(told) == 1 else {"prompts": told}

    def _headers(self) -> dict[str, str]:
        version = self.asked[0].served
        edits = sorted({asked.edit.id for asked in self.asked if asked.edit is not None})
        headers = {"X-Melo-Version": version.name, "X-Melo-Digest": version.content.content_digest}
        return headers | ({"X-Melo-Edit": ",".join(map(str, edits))} if edits else {})


async def while_wanted(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what the work returns. Raises ClientLeft, and ends the work, where nobody waits for it any more."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft("The client went away, so the work for it was stopped.")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    """Return when the client has gone away. The body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chained(
    first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    yield first
    async for each in rest:
        yield each
