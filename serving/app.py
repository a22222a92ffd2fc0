"""The HTTP application: OpenAI's endpoints over versions of the registry, and where each answer came from."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import generate_latest
from sqlalchemy import Engine as Database
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from melo_core.errors import MeloError
from melo_core.structure import Kind
from registry.access.caller import Caller
from registry.api.app import VERSION, SchemaGate
from registry.api.gate import Gate
from registry.api.middleware import BodyLimit, RequestLog
from registry.api.rates import Rates
from registry.base.database import make_sessions
from registry.base.errors import NotFound, RegistryError
from registry.base.settings import Settings
from registry.base.vocabulary import EditKind
from registry.collections import service as collections
from registry.feedback import service as feedback
from registry.feedback.schemas import GivenView, NewFeedback
from registry.versions.reading import NamedVersion, named
from serving.answering import Answering, provenance
from serving.engines.grammar import require_schema
from serving.log import AnswerLog, Asking
from serving.metrics import Metrics
from serving.refusals import refusal
from serving.router import Router, Wanted
from serving.schemas import ChatRequest, ClassifyRequest, CompletionRequest, ResponseRequest, RouteRequest
from serving.shapes import ChatShape, ResponseShape, TextShape, new_id
from serving.versions import Served

log = structlog.get_logger("melo.serve")
api = APIRouter()
LOG_SECONDS = 5.0  # for what waits to be logged, where somebody waits for it


def create_app(settings: Settings, database: Database, router: Router) -> FastAPI:
    """Make the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.log.start()
        yield
        router.close(settings.stop_seconds)
        app.state.log.close(LOG_SECONDS)
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
    app.state.log = AnswerLog(app.state.sessions, app.state.metrics.registry)
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes)
    open_paths = frozenset({"/health", "/docs", "/openapi.json"})
    app.add_middleware(Gate, answer=refusal, open_paths=open_paths, placeholders=True)
    app.add_middleware(RequestLog)
    app.include_router(api)
    for kind in (RegistryError, MeloError, RequestValidationError, HTTPException, DBAPIError, Exception):
        app.add_exception_handler(kind, refusal)
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
    router, wanted = _router(request), _wanted(body)
    version = await _version(request, body.model)
    asked = await router.chat(version, [message.turn() for message in body.messages], body.tool_use)
    shape = ChatShape(
        router,
        body.model,
        new_id("chatcmpl-"),
        tools=body.tool_use,
        top_logprobs=wanted.top_logprobs,
        with_usage=body.with_usage,
    )
    return await Answering(request, [asked] * body.choices, wanted, shape).respond(stream=body.stream)


@api.post("/v1/completions", tags=["answers"])
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue prompts as they are."""
    router, wanted, version = _router(request), _wanted(body), await _version(request, body.model)
    asked = [await router.complete(version, prompt) for prompt in body.prompts]
    each = [one for one in asked for _ in range(body.choices)]
    shape = TextShape(
        router,
        body.model,
        new_id("cmpl-"),
        echo=[one.question for one in each] if body.echo else None,
        top_logprobs=wanted.top_logprobs,
        with_usage=body.with_usage,
    )
    return await Answering(request, each, wanted, shape).respond(stream=body.stream)


@api.post("/v1/responses", tags=["answers"])
async def responses(request: Request, body: ResponseRequest) -> Response:
    """Answer a conversation, in the form of OpenAI's Responses. Nothing is kept between requests."""
    router, wanted, version = _router(request), _wanted(body), await _version(request, body.model)
    asked = await router.chat(version, body.turns(), body.tool_use)
    shape = ResponseShape(router, body.model, new_id("resp_"), tools=body.tool_use, given=body.repeated())
    return await Answering(request, [asked], wanted, shape).respond(stream=body.stream)


def _wanted(body: ChatRequest | CompletionRequest | ResponseRequest) -> Wanted:
    """Return what a request asks of its answer. Raises InvalidRequest for a JSON schema that cannot be used."""
    wanted = body.as_wanted()
    if wanted.schema is not None:
        require_schema(wanted.schema)
    return wanted


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
    asking = Asking(new_id("classify-"), body.model, request.state.caller.actor)
    answers = []
    for index, text in enumerate([body.input] if isinstance(body.input, str) else body.input):
        asked = await router.complete(version, text)
        (piece,) = [piece async for piece in router.answer(asked, Wanted())]
        acted = asked.edit is not None
        answers.append(asking.answered(index, asked, piece.text, len(piece.tokens), EditKind.CLASSIFICATION))
        data.append(
            {
                "index": index,
                "label": piece.text,
                "num_classes": len(names),
                "melo": provenance(version, asked.route, acted=acted),
            }
        )
    request.app.state.log.add(answers)
    return {
        "id": asking.response_id,
        "object": "list",
        "created": int(time.time()),
        "model": body.model,
        "data": data,
    }


@api.post("/v1/feedback", status_code=201, tags=["answers"])
def give_feedback(request: Request, body: NewFeedback) -> GivenView:
    """Say that an answer was right, or wrong. A correction by an editor becomes a batch that waits for approval."""
    request.app.state.log.flush(LOG_SECONDS)  # it may be about the answer before
    request.app.state.schema.require_current()
    with request.app.state.sessions.begin() as session:
        return feedback.give(session, body, request.state.caller, request.state.request_id)
