"""The shaping of answers: whole or streamed, in OpenAI's form, with where each came from."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import structlog
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from melo_core.edited_model import Route
from serving.engines.port import Token
from serving.refusals import refused
from serving.router import Asked, Piece, Router, Wanted
from serving.versions import Served

log = structlog.get_logger("melo.serve")

_OPEN: dict[str, Any] = {"logprobs": None, "finish_reason": None}


def provenance(version: Served, route: Route, *, acted: bool) -> dict[str, Any]:
    """Return version and digest, the edit that acts, and the edits that were considered with the reasons."""
    edit = version.edit(route) if acted else None
    return {
        "version": version.name,
        "digest": version.content.content_digest,
        "edit": None
        if edit is None
        else {
            "id": edit.id,
            "prompt": edit.prompt,
            "author": edit.author,
            "reason": edit.reason,
            "source": edit.source,
            "batch": edit.batch_id,
        },
        "threshold": version.settings.threshold,
        "considered": [
            {
                "edit": found.edit,
                "text": found.text,
                "distance": round(found.distance, 6),
                "score": found.score,
                "difference": str(found.difference) if found.difference else None,
                "guard": found.guard,
                "covers": found.covers,
            }
            for found in route.considered
        ],
    }


class Answering:
    """The answers to one request, whole or streamed. A choice is one of several answers, each with its own prompt."""

    def __init__(
        self,
        request: Request,
        shape: str,
        prefix: str,
        model: str,
        asked: Sequence[Asked],
        wanted: Wanted,
        echo: bool = False,
    ) -> None:
        self.request, self.metrics = request, request.app.state.metrics
        self.router: Router = request.app.state.router
        self.shape, self.model, self.asked, self.wanted, self.echo = shape, model, asked, wanted, echo
        self.is_chat = shape == "chat.completion"
        self.top = {"id": f"{prefix}-{uuid4().hex}", "created": int(time.time()), "model": model}
        self.tokens = 0

    async def respond(self, *, stream: bool, with_usage: bool) -> Response:
        for asked in self.asked:
            self.router.room(asked, self.wanted.limit)
        pieces = self._pieces()
        first = await anext(pieces)  # what can be refused is refused before the answer begins
        headers = self._headers()
        if stream:
            grace = self.request.app.state.settings.stop_seconds  # told to stop, the server ends what it has begun
            events = self._events(first, pieces, with_usage)
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
        texts = [""] * len(self.asked)
        tokens: list[list[Token]] = [[] for _ in self.asked]
        ended: list[str | None] = [None] * len(self.asked)
        async for index, piece in _chained(first, rest):
            texts[index] += piece.text
            tokens[index] += piece.tokens
            ended[index] = piece.ended or ended[index]
        choices = [self._choice(i, texts[i], tokens[i], ended[i]) for i in range(len(self.asked))]
        return {**self.top, "object": self.shape, "choices": choices, "usage": self._usage(), "melo": self._melo()}

    async def _events(
        self, first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]], with_usage: bool
    ) -> AsyncIterator[dict[str, str]]:
        shape = "chat.completion.chunk" if self.is_chat else self.shape
        begun = set[int]()

        def event(choices: list[dict[str, Any]], **more: Any) -> dict[str, str]:
            usage = {"usage": None} if with_usage else {}
            return {"data": json.dumps({**self.top, "object": shape, "choices": choices, **usage, **more})}

        left = len(self.asked)
        try:
            async for index, piece in _chained(first, rest):
                if index not in begun:
                    begun.add(index)
                    if self.is_chat:
                        yield event([{"index": index, "delta": {"role": "assistant", "content": ""}, **_OPEN}])
                    elif self.echo:
                        yield event([self._text_choice(index, self.asked[index].question, [], None)])
                if piece.text or (piece.tokens and self.wanted.top_logprobs is not None):
                    yield event([self._delta(index, piece)])
                if piece.ended:
                    left -= 1
                    last = {} if left else {"melo": self._melo()}
                    yield event([self._closing(index, piece.ended)], **last)
            if with_usage:
                yield event([], usage=self._usage())
        except Exception as error:
            log.exception("an answer broke off")
            yield {"data": json.dumps(refused(error)[1])}
        yield {"data": "[DONE]"}

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield the pieces of all choices as they come."""
        arrived = asyncio.Queue[tuple[int, Piece | Exception | None]]()
        began = time.perf_counter()

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
                    self.metrics.first_token.observe(time.perf_counter() - began)
                self.tokens += len(piece.tokens)
                yield index, piece
            self.metrics.answered(sum(len(asked.ids) for asked in self.asked), self.tokens)
        finally:
            for task in tasks:
                task.cancel()

    def _choice(self, index: int, text: str, tokens: list[Token], ended: str | None) -> dict[str, Any]:
        if not self.is_chat:
            shown = self.asked[index].question + text if self.echo else text
            return self._text_choice(index, shown, tokens, ended)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._chat_logprobs(tokens), "finish_reason": ended}

    def _text_choice(self, index: int, text: str, tokens: Sequence[Token], ended: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": self._text_logprobs(tokens), "finish_reason": ended}

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        if not self.is_chat:
            return self._text_choice(index, piece.text, piece.tokens, None)
        logprobs = self._chat_logprobs(piece.tokens)
        return {"index": index, "delta": {"content": piece.text}, "logprobs": logprobs, "finish_reason": None}

    def _closing(self, index: int, ended: str) -> dict[str, Any]:
        if not self.is_chat:
            return self._text_choice(index, "", [], ended)
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": ended}

    def _chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.wanted.top_logprobs is None:
            return None
        return {
            "content": [
                {**self._spelt(token.id, token.logprob), "top_logprobs": [self._spelt(*other) for other in token.top]}
                for token in tokens
            ],
            "refusal": None,
        }

    def _spelt(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self.router.spelt(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.wanted.top_logprobs is None:
            return None
        texts = [self.router.spelt(token.id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.router.spelt(id): p for id, p in token.top} for token in tokens],
            "text_offset": [sum(map(len, texts[:i])) for i in range(len(texts))],
        }

    def _usage(self) -> dict[str, int]:
        prompts = {id(asked): len(asked.ids) for asked in self.asked}
        given = sum(prompts.values())
        return {"prompt_tokens": given, "completion_tokens": self.tokens, "total_tokens": given + self.tokens}

    def _melo(self) -> dict[str, Any]:
        """Return where the answer came from; of several prompts, where each did."""
        several = {id(asked): asked for asked in self.asked}.values()
        told = []
        for asked in several:
            said_to = asked.said_to if asked.route.block is not None else None
            told.append({**provenance(asked.served, asked.route, acted=asked.edit is not None), "said_to": said_to})
        return told[0] if len(told) == 1 else {"prompts": told}

    def _headers(self) -> dict[str, str]:
        version = self.asked[0].served
        edits = sorted({asked.edit.id for asked in self.asked if asked.edit is not None})
        headers = {"X-Melo-Version": version.name, "X-Melo-Digest": version.content.content_digest}
        return headers | ({"X-Melo-Edit": ",".join(map(str, edits))} if edits else {})


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
