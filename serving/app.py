"""The HTTP application: OpenAI's endpoints over versions of the registry, and where each answer came from."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DataError, DBAPIError
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from melo_core.edited_model import Route
from melo_core.errors import MeloError
from melo_core.structure import Kind
from registry.access.caller import Caller
from registry.api.app import VERSION, SchemaGate
from registry.api.gate import Gate
from registry.api.middleware import BodyLimit, RequestLog
from registry.api.rates import Rates
from registry.base.database import make_sessions
from registry.base.errors import DatabaseAway, NotFound, RegistryError
from registry.base.settings import Settings
from registry.collections import service as collections
from registry.versions.reading import NamedVersion, named
from serving.metrics import Metrics
from serving.router import Asked, Piece, Router, Token, Wanted
from serving.schemas import ChatRequest, ClassifyRequest, CompletionRequest, RouteRequest
from serving.versions import Served

log = structlog.get_logger("melo.serve")
api = APIRouter()


def create_app(settings: Settings, database: Database, router: Router) -> FastAPI:
    """Make the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        router.close(settings.stop_seconds)
        database.dispose()

    app = FastAPI(
        title="MELO serving",
        description="Answers of a corrected model, in OpenAI's form.",
        version=VERSION,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.settings, app.state.router = settings, router
    app.state.sessions, app.state.schema = make_sessions(database), SchemaGate(database)
    app.state.rates = Rates(settings.rate_limit, settings.redis_url)
    app.state.metrics = Metrics(router.engine)
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes)
    open_paths = frozenset({"/health", "/docs", "/openapi.json"})
    app.add_middleware(Gate, answer=_refusal, open_paths=open_paths, placeholders=True)
    app.add_middleware(RequestLog)
    app.include_router(api)
    for kind in (RegistryError, MeloError, RequestValidationError, HTTPException, DBAPIError, Exception):
        app.add_exception_handler(kind, _refusal)
    return app


def _router(request: Request) -> Router:
    return request.app.state.router  # type: ignore[no-any-return]


async def _version(request: Request, name: str) -> Served:
    """Return a version that the caller may ask. Raises NotFound, also for one that the caller may not see."""
    await run_in_threadpool(_require_visible, request, name)
    return await _router(request).version(name)


def _require_visible(request: Request, name: str) -> None:
    """Raise NotFound for a collection that the caller may not see, before anything is said about it."""
    caller: Caller = request.state.caller
    if caller.collections is not None:
        with request.app.state.sessions() as session:
            collections.among(session, name.partition("@")[0], caller.collections)


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no model {name!r}.", "GET /v1/models lists those that this key may ask.")


@api.get("/health", tags=["operation"])
async def health(request: Request) -> dict[str, str]:
    """Confirm that the server answers, and name the model that it has in memory."""
    return {"status": "ok", "version": VERSION, "model": _router(request).versions.model}


@api.get("/metrics", tags=["operation"])
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' format."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type="text/plain; version=0.0.4")


@api.get("/v1/models", tags=["models"])
def models(request: Request) -> dict[str, Any]:
    """List the models: of each collection the base model, the newest version and its aliases."""
    return {"object": "list", "data": [_model(each) for each in _listed(request)]}


@api.get("/v1/models/{name}", tags=["models"])
def model(request: Request, name: str) -> dict[str, Any]:
    """Show one of them."""
    for each in _listed(request):
        if each.name == name:
            return _model(each)
    raise _unknown(name)


def _listed(request: Request) -> list[NamedVersion]:
    caller: Caller = request.state.caller
    with request.app.state.sessions() as session:
        return named(session, _router(request).versions.digest, caller.collections)


def _model(each: NamedVersion) -> dict[str, Any]:
    return {
        "id": each.name,
        "object": "model",
        "created": int(each.since.timestamp()),
        "owned_by": "melo",
        "root": each.model,
        "parent": None if each.number == 0 else f"{each.collection}@{each.number}",
    }


@api.post("/v1/chat/completions", tags=["answers"])
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation. Its last question decides which correction, if any, acts."""
    router = _router(request)
    asked = await router.chat(await _version(request, body.model), [message.turn() for message in body.messages])
    one = _Answering(request, "chat.completion", "chatcmpl", body.model, [asked] * body.choices, body.as_wanted())
    return await one.respond(stream=body.stream, with_usage=body.with_usage)


@api.post("/v1/completions", tags=["answers"])
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue prompts as they are."""
    router, version = _router(request), await _version(request, body.model)
    asked = [await router.complete(version, prompt) for prompt in body.prompts]
    each = [one for one in asked for _ in range(body.choices)]
    one = _Answering(request, "text_completion", "cmpl", body.model, each, body.as_wanted(), echo=body.echo)
    return await one.respond(stream=body.stream, with_usage=body.with_usage)


@api.post("/v1/route", tags=["answers"])
async def route(request: Request, body: RouteRequest) -> dict[str, Any]:
    """Say which correction would act, and why or why not the nearest ones, without generating."""
    router, version = _router(request), await _version(request, body.model)
    if body.messages is not None:
        asked = await router.chat(version, [message.turn() for message in body.messages])
        return {"question": asked.question, **provenance(version, asked.route, acted=True)}
    return {"question": body.prompt, **provenance(version, await router.routed(version, body.prompt or ""), acted=True)}


@api.post("/v1/classify", tags=["answers"])
async def classify(request: Request, body: ClassifyRequest) -> dict[str, Any]:
    """Give texts their classes."""
    router, version = _router(request), await _version(request, body.model)
    if router.base.kind is not Kind.CLASSIFIER:
        raise MeloError(f"{body.model} generates text; ask it at /v1/chat/completions")
    names = list((router.base.model.config.label2id or {}).keys())
    data = []
    for index, text in enumerate([body.input] if isinstance(body.input, str) else body.input):
        asked = await router.complete(version, text)
        (piece,) = [piece async for piece in router.answer(asked, Wanted())]
        acted = asked.edit is not None
        data.append(
            {
                "index": index,
                "label": piece.text,
                "num_classes": len(names),
                "melo": provenance(version, asked.route, acted=acted),
            }
        )
    return {
        "id": f"classify-{uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": body.model,
        "data": data,
    }


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


class _Answering:
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
        self.request, self.router, self.metrics = request, _router(request), request.app.state.metrics
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
            yield {"data": json.dumps(_body(error)[1])}
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


_OPEN: dict[str, Any] = {"logprobs": None, "finish_reason": None}


def _refusal(request: Request, error: Exception) -> JSONResponse:
    """Answer an error in OpenAI's form."""
    status, body = _body(error)
    if status >= 500:
        log.error("not answered", path=request.url.path, error=str(error), exc_info=error if status == 500 else None)
    return JSONResponse(body, status, headers=dict(getattr(error, "headers", None) or {}))


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def _body(error: Exception) -> tuple[int, dict[str, Any]]:
    status, code, param = 500, "defect", None
    message = "The server met an error that it does not know; its log says which."
    match error:
        case RequestValidationError():
            found = error.errors()
            status, code = 400, "invalid_value"
            places = [".".join(str(part) for part in each["loc"][1:]) for each in found]
            param = places[0] or None
            message = "; ".join(f"{place}: {each['msg']}" for place, each in zip(places, found, strict=True))
        case RegistryError():
            status = 400 if error.status == 422 else error.status
            code = "model_not_found" if isinstance(error, NotFound) else error.code.replace("-", "_")
            message = f"{error.detail} {error.remedy}".strip()
            param = "model" if isinstance(error, NotFound) else None
        case MeloError():
            status, code, message = 400, "invalid_request", str(error)
        case DataError():
            status, code, message = 400, "invalid_value", "The name of the model holds characters that no name has."
            param = "model"
        case DBAPIError():
            return _body(DatabaseAway("The registry's database does not answer.", "Ask again later."))
        case HTTPException():
            status, code, message = error.status_code, "http_error", str(error.detail)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}
