"""A server with what the router uses of vLLM's API, over the embedded engine and a tiny model; it can be told to fail.

What vLLM itself answers is tested in tests/vllm, where it is installed.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from melo_core.base_model import BaseModel
from melo_core.block import Block
from serving.engines.embedded import EmbeddedEngine, Loop
from serving.engines.port import Acting, Generation
from serving.engines.sampling import Sampling
from tests.patience import until


@dataclass
class StandIn:
    """One server. blocks: finds a block by its digest, or raises KeyError."""

    base: BaseModel
    blocks: Callable[[str], Block]
    model: str
    window: int = 256
    key: str | None = None
    breaks_after: int | None = None  # tokens, and then the connection breaks
    says_error: bool = False  # an error in place of the first token
    held: bool = False  # no token comes
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    gone: int = 0  # clients that went away before the end
    names: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> Starlette:
        self._engine = EmbeddedEngine(Loop(self.base, rows=8))
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        listed = [{"id": self.model, "parent": None, "max_model_len": self.window}]
        return JSONResponse({"data": [*listed, *({"id": name, "parent": self.model} for name in self.names)]})

    async def _unload(self, request: Request) -> Response:
        self.names.remove((await request.json())["lora_name"])
        return JSONResponse({})

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.status != 200:
            return JSONResponse({"error": {"message": "not now"}}, self.status)
        acting = None
        if body["model"] != self.model:
            try:
                acting = Acting(body["model"], self.blocks(body["model"]))
            except KeyError:
                return JSONResponse({"error": {"message": "no such model"}}, 404)
            if body["model"] not in self.names:
                self.names.append(body["model"])
        return StreamingResponse(self._events(body, acting), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], acting: Acting | None) -> AsyncIterator[str]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(item: Any) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, item)

        sampling = Sampling(body["temperature"], body["top_p"], body["seed"])
        generation = Generation(
            body["prompt"], body["max_tokens"], acting, lambda token: put(token), put, sampling, body.get("logprobs")
        )
        sent = 0
        try:
            while self.held:
                await asyncio.sleep(0.01)
            if self.says_error:
                yield event({"error": {"message": "the engine is dead"}})
                return
            self._engine.submit(generation)
            while not isinstance(token := await arrived.get(), str):
                if self.breaks_after is not None and sent >= self.breaks_after:
                    raise ConnectionResetError
                sent += 1
                choice: dict[str, Any] = {"token_ids": [token.id], "finish_reason": None}
                if token.logprob is not None:
                    top = {f"token_id:{id}": value for id, value in ((token.id, token.logprob), *token.top)}
                    choice["logprobs"] = {"token_logprobs": [token.logprob], "top_logprobs": [top]}
                yield event({"choices": [choice]})
            yield event({"choices": [{"token_ids": [], "finish_reason": token}]})
            yield event({"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 2}}})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.gone += 1
            raise
        finally:
            generation.cancelled = True


def event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told)}\n\n"


@contextmanager
def standing(server: StandIn) -> Iterator[StandIn]:
    """Serve from a thread; at the port that it had, if it was served before."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", server.port))
    server.port = listener.getsockname()[1]
    config = uvicorn.Config(server.app(), log_level="critical", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: running.started, 0.02)
    yield server
    running.should_exit = True
    thread.join()
    listener.close()
    server._engine.stop(1)
