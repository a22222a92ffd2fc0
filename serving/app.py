"""The HTTP application: OpenAI's endpoints over versions of the registry, and where each answer came from."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from prometheus_client import generate_latest
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from melo_core.errors import MeloError
from melo_core.structure import Kind
from registry.access.caller import Caller
from registry.access.operator import OperatorKeys
from registry.answers.explaining import route_reason
from registry.answers.remedies import remedy
from registry.api.app import VERSION
from registry.api.bodies import BoundedRoute
from registry.api.documentation import PATHS, serve_documentation
from registry.api.gate import Gate, bearer_of
from registry.api.middleware import RequestLog, UnderPath
from registry.api.rates import Rates
from registry.base.errors import NotFound, RegistryError, RoleNeeded
from registry.base.settings import Settings
from registry.base.vocabulary import EditKind, Role
from registry.feedback.schemas import GivenView, NewFeedback
from registry.versions.reading import NamedVersion
from registry.versions.schemas import ShadowReport
from serving.answering import Answering, provenance, while_wanted
from serving.callers import Callers
from serving.canary import Chosen, beginning_of, user_of
from serving.engines.grammar import require_schema
from serving.following import Follower
from serving.log import AnswerLog, Asking, considered_in
from serving.metrics import Metrics
from serving.refusals import Refused, refusal
from serving.response_schemas import ResponseRequest
from serving.router import Asked, Piece, Router, Wanted
from serving.schemas import ChatRequest, ClassifyRequest, CompletionRequest, FromUser, RouteRequest
from serving.served import Served
from serving.shadow import Shadows
from serving.shapes import ChatShape, ResponseShape, TextShape, new_id
from serving.sources.port import Source

log = structlog.get_logger("melo.serve")
REFUSED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refused, "description": "The request cannot be answered as it is"},
    "5XX": {"model": Refused, "description": "The server cannot answer now"},
}
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON, or [DONE]"}},
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, in OpenAI's form, or with stream: true its events",
        "content": {"text/event-stream": {"schema": EVENT}},
    }
}
SHOWN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Metrics in Prometheus' format", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


class Health(BaseModel):
    status: str = "ok"
    version: str
    model: str = Field(description="the base model in memory")
    not_followed: list[str] = Field(description="names of which the last good version goes on; the log has the reasons")


api = APIRouter(responses=REFUSED, route_class=BoundedRoute)
LISTED = "GET /v1/models lists those that this key may ask."
LOG_SECONDS = 5.0  # for what waits to be logged, where somebody waits for it


def create_app(settings: Settings, source: Source, router: Router) -> FastAPI:
    """Make the application. source: closed at its end. Raises UnusableKey."""
    callers = Callers(source)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        follower = Follower(source, [router.versions.changed, callers.changed])
        comparing = asyncio.create_task(app.state.shadows.run())
        app.state.log.start()
        yield
        comparing.cancel()
        router.close(settings.stop_seconds)
        app.state.log.close(LOG_SECONDS)
        follower.stop()
        source.close()

    app = FastAPI(
        title="MELO serving",
        description="Answers of a corrected model, in OpenAI's form.",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # its page takes scripts from another site
        redoc_url=None,
    )
    app.state.operator = OperatorKeys.of(settings)
    app.state.settings, app.state.router, app.state.source = settings, router, source
    app.state.rates = Rates(settings.rate_limit, settings.redis_url)
    app.state.metrics = Metrics(router.engine, lambda: router.versions.not_followed)
    app.state.log = AnswerLog(source, app.state.metrics.registry)
    app.state.shadows = Shadows(router, app.state.metrics.shadow)
    open_paths = frozenset({"/health", "/openapi.json"}) | PATHS
    ends = frozenset({"GET", "POST"})
    app.add_middleware(Gate, answer=refusal, open_paths=open_paths, ends=ends, authenticate=callers.authenticate)
    app.add_middleware(RequestLog)
    app.add_middleware(UnderPath, root_path=settings.serve_root_path, trusted_proxies=settings.trusted_proxies)
    app.include_router(api)
    serve_documentation(app)
    for kind in (RegistryError, MeloError, RequestValidationError, HTTPException, DBAPIError, Exception):
        app.add_exception_handler(kind, refusal)
    router.traces.instrument(app)
    return app


def _router(request: Request) -> Router:
    return request.app.state.router  # type: ignore[no-any-return]


async def _version(request: Request, name: str) -> Served:
    """Return a version that the caller may ask. Raises NotFound, also for one that the caller may not see."""
    caller: Caller = request.state.caller
    try:
        return await _router(request).version(name, caller.collections)
    except NotFound as error:  # its remedy is the operator's
        raise NotFound(error.detail, LISTED) from error


async def _chosen(request: Request, body: FromUser, text: str) -> Chosen:
    """Return the version that answers the caller's user. text: what the conversation begins with. Raises NotFound."""
    first = await _version(request, body.model)
    user = user_of(body.named_user, request.headers, request.state.caller, text)
    return await _router(request).chosen(body.model, first, user)


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no model {name!r}.", LISTED)


@api.get("/health", tags=["operation"])
async def health(request: Request) -> Health:
    """Confirm that the server answers, and name the model in memory, and what is not followed as it should be."""
    versions = _router(request).versions
    return Health(version=VERSION, model=versions.model, not_followed=sorted(versions.not_followed))


@api.get("/metrics", tags=["operation"], responses=SHOWN)
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' format."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type="text/plain; version=0.0.4")


@api.get("/v1/models", tags=["models"])
def models(request: Request) -> dict[str, Any]:
    """List the models: of each collection the base model, the newest version and its aliases."""
    return {"object": "list", "data": [_model(each) for each in _listed(request)]}


@api.get("/v1/models/{name}", tags=["models"])
async def model(request: Request, name: str) -> dict[str, Any]:
    """Show one of them, or another version that can be asked."""
    listed = await run_in_threadpool(_listed, request)
    if (found := next((each for each in listed if each.name == name), None)) is None:
        content = (await _version(request, name)).content
        one = next((each for each in listed if each.collection == content.collection.name), None)
        found = one and replace(one, name=name, number=content.number)
    if found is None:
        raise _unknown(name)
    return _model(found)


def _listed(request: Request) -> list[NamedVersion]:
    caller: Caller = request.state.caller
    return _router(request).versions.names(caller.collections)


def _model(each: NamedVersion) -> dict[str, Any]:
    return {
        "id": each.name,
        "object": "model",
        "created": int(each.since.timestamp()),
        "owned_by": "melo",
        "root": each.model,
        "parent": None if each.number == 0 else f"{each.collection}@{each.number}",
    }


@api.post("/v1/chat/completions", tags=["answers"], responses=STREAMED)
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation. Its last question decides which correction, if any, acts."""
    router, wanted = _router(request), _wanted(body)
    turns = [message.turn() for message in body.messages]
    chosen = await _chosen(request, body, beginning_of(turns))
    asked = await router.chat(chosen.served, turns, body.tool_use)
    shape = ChatShape(
        router,
        body.model,
        new_id("chatcmpl-"),
        tools=body.tool_use,
        top_logprobs=wanted.top_logprobs,
        with_usage=body.with_usage,
    )
    return await Answering(request, chosen, [asked] * body.choices, wanted, shape).respond(stream=body.stream)


@api.post("/v1/completions", tags=["answers"], responses=STREAMED)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue prompts as they are."""
    router, wanted = _router(request), _wanted(body)
    chosen = await _chosen(request, body, str(body.prompts[0]))
    asked = await while_wanted(request, _completed(router, chosen.served, body.prompts))
    each = [one for one in asked for _ in range(body.choices)]
    shape = TextShape(
        router,
        body.model,
        new_id("cmpl-"),
        echo=[one.question.text for one in each] if body.echo else None,
        top_logprobs=wanted.top_logprobs,
        with_usage=body.with_usage,
    )
    return await Answering(request, chosen, each, wanted, shape).respond(stream=body.stream)


async def _completed(router: Router, served: Served, prompts: Sequence[str | list[int]]) -> list[Asked]:
    return [await router.complete(served, prompt) for prompt in prompts]


@api.post("/v1/responses", tags=["answers"], responses=STREAMED)
async def responses(request: Request, body: ResponseRequest) -> Response:
    """Answer a conversation, in the form of OpenAI's Responses. Nothing is kept between requests."""
    router, wanted, turns = _router(request), _wanted(body), body.turns()
    chosen = await _chosen(request, body, beginning_of(turns))
    asked = await router.chat(chosen.served, turns, body.tool_use)
    shape = ResponseShape(router, body.model, new_id("resp_"), tools=body.tool_use, given=body.repeated())
    return await Answering(request, chosen, [asked], wanted, shape).respond(stream=body.stream)


def _wanted(body: ChatRequest | CompletionRequest | ResponseRequest) -> Wanted:
    """Return what a request asks of its answer. Raises InvalidRequest for a JSON schema that cannot be used."""
    wanted = body.as_wanted()
    if wanted.schema is not None:
        require_schema(wanted.schema)
    return wanted


@api.post("/v1/route", tags=["answers"])
async def route(request: Request, body: RouteRequest) -> dict[str, Any]:
    """Say which correction would act, and why or why not the nearest ones, without generating."""
    router, prompt = _router(request), body.prompt or ""
    turns = [message.turn() for message in body.messages or ()]
    chosen = await _chosen(request, body, beginning_of(turns) or prompt)
    if turns:
        asked = await router.chat(chosen.served, turns)
        question, found = asked.question.text, asked.route
    else:
        question, found = prompt, await router.routed(chosen.served, prompt)
    served, considered = chosen.served, considered_in(found)
    left = considered[0] if considered and found.block is None else None
    return {
        "question": question,
        "why": route_reason(considered, served.settings.threshold),
        "remedy": None if left is None else remedy(served.content.collection.name, left.edit, covers=False),
        **provenance(served, found, acted=True),
        "canary": chosen.canary,
    }


@api.post("/v1/classify", tags=["answers"])
async def classify(request: Request, body: ClassifyRequest) -> dict[str, Any]:
    """Give texts their classes."""
    router, texts = _router(request), [body.input] if isinstance(body.input, str) else body.input
    chosen = await _chosen(request, body, texts[0] if texts else "")
    if router.base.kind is not Kind.CLASSIFIER:
        raise MeloError(f"{body.model} generates text; ask it at /v1/chat/completions")
    names = list((router.base.model.config.label2id or {}).keys())
    asking = Asking(new_id("classify-"), body.model, request.state.caller.actor)
    found = await while_wanted(request, _classified(router, chosen.served, texts))
    data, answers = [], []
    for index, (asked, piece) in enumerate(found):
        request.app.state.shadows.offer(chosen.pointing, asked, Wanted())
        acted = asked.edit is not None
        answers.append(
            asking.answered(
                index, asked, piece.text, len(piece.tokens), canary=chosen.canary, kind=EditKind.CLASSIFICATION
            )
        )
        data.append(
            {
                "index": index,
                "label": piece.text,
                "num_classes": len(names),
                "melo": {**provenance(chosen.served, asked.route, acted=acted), "canary": chosen.canary},
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


async def _classified(router: Router, served: Served, texts: Sequence[str]) -> list[tuple[Asked, Piece]]:
    found = []
    for text in texts:
        asked = await router.complete(served, text)
        found += [(asked, piece) async for piece in router.answer(asked, Wanted())]
    return found


@api.post("/v1/feedback", status_code=201, tags=["answers"])
def give_feedback(request: Request, body: NewFeedback) -> GivenView:
    """Say that an answer was right, or wrong. A correction by an editor becomes a batch that waits for approval."""
    request.app.state.log.flush(LOG_SECONDS)  # it may be about the answer before
    source: Source = request.app.state.source
    return source.feedback(body, request.state.caller, request.state.request_id, bearer_of(request) or None)


@api.get("/v1/shadow/{collection}@{alias}", tags=["answers"])
async def shadow(request: Request, collection: str, alias: str) -> ShadowReport:
    """Tell what the comparisons with an alias's shadow found on this server, with the last questions that differ."""
    name, caller = f"{collection}@{alias}", request.state.caller
    first = await _version(request, name)
    role = caller.role_in(first.content.collection.id)
    if role is None or not role.covers(Role.EDITOR):  # it quotes what users asked
        raise RoleNeeded(
            f"This needs the role {Role.EDITOR} in collection {collection!r}; "
            f"{caller.name} has {role or 'no role'} there.",
            "Ask an admin for a key that has it (`melo key create`).",
        )
    shadows: Shadows = request.app.state.shadows
    return shadows.report(_router(request).versions.pointing(name, first))
