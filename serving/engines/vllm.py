"""The engine of a cluster: vLLM servers with the plugin `melo-vllm`, which find blocks by their digest."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import structlog

from melo_core.base_model import BaseModel
from melo_core.errors import UnsupportedModel
from melo_core.structure import Kind
from registry.base.errors import InvalidRequest, RegistryError
from registry.base.settings import Settings
from serving.engines.port import Generation, Overloaded, Stopping
from serving.engines.vllm_server import ServerAway, ServerFailed, VllmServer, WrongServer

log = structlog.get_logger("melo.serve")

PROBE_SECONDS = 1.0  # between two tries of a server that does not answer
WATCH_SECONDS = 0.05  # until a generation whose reader went away is ended


def vllm_engine(
    base: BaseModel, model: str, urls: Sequence[str], settings: Settings, most_waiting: int
) -> "VllmEngine":
    """Return an engine over these servers. Raises WrongServer, or UnsupportedModel for a model that is not causal."""
    if base.kind is not Kind.CAUSAL:
        raise UnsupportedModel(f"{model} is no causal language model: vLLM is not used for it; leave out --vllm")
    key = settings.vllm_api_key.get_secret_value() if settings.vllm_api_key else None
    return VllmEngine(urls, model, base.end_tokens, key=key, most_waiting=most_waiting)


class NoServer(RegistryError):
    status = 503
    code = "no-server"
    title = "No vLLM server answers"
    headers: Mapping[str, str] = {"Retry-After": "5"}


SURE_SLOTS = 16  # of a server; by default, vLLM has several times as many


class VllmEngine:
    """Hands each generation to the server with the fewest; one that does not answer is left out and tried again.

    All that awaits runs in one thread of its own. A generation goes to another server only while it has no token yet:
    what one has begun, no other goes on with.
    """

    by_digest = True

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        end_tokens: frozenset[int],
        *,
        key: str | None = None,
        most_waiting: int = 256,
        most_names: int = 1024,
    ) -> None:
        """model: the name under which every server must serve the base model. end_tokens: those that end an answer.
        key: the servers' API key. most_names: blocks that a server keeps the names of; those not used are unloaded.
        Raises WrongServer for a server of another model; one that does not answer yet is waited for.
        """
        self._most_waiting = most_waiting
        self._tokens = [0, 0]  # of prompts: asked for, and not computed again
        self._open: set[Generation] = set()
        self._tasks: dict[asyncio.Task[None], Generation] = {}
        self._probes: dict[VllmServer, asyncio.Task[None]] = {}
        self._stopping = False
        self._turn = 0
        self._watcher: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="melo-vllm", daemon=True)
        self._thread.start()
        self._servers = [VllmServer(url.rstrip("/"), model, end_tokens, key, most_names) for url in urls]
        try:
            self._run(self._greet())
        except WrongServer:
            self.stop(0)
            raise

    @property
    def slots(self) -> int:
        """Return how many can surely run at once: vLLM does not tell what it has room for."""
        return SURE_SLOTS * len(self._servers)

    @property
    def waiting(self) -> int:
        """Return how many have no token yet: vLLM has its own queue."""
        return sum(not generation.out for generation in tuple(self._open))

    @property
    def running(self) -> int:
        return sum(bool(generation.out) for generation in tuple(self._open))

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        return self._tokens[0], self._tokens[1]

    def submit(self, generation: Generation) -> None:
        if self._stopping:
            raise Stopping("The server is stopping.", "Ask again in a moment: another one may have taken over.")
        if self.waiting >= self._most_waiting:
            raise Overloaded(
                f"{self._most_waiting} requests are waiting already.", "Ask again in a second, or add a vLLM server."
            )
        if generation.block is not None and generation.block.positions != "answer":
            raise InvalidRequest(
                "This collection's blocks act on all positions, and vLLM lets them act from the last prompt token on.",
                "Serve it without --vllm.",
            )
        self._open.add(generation)
        self._loop.call_soon_threadsafe(self._begin, generation)

    def forget(self, digests: frozenset[str]) -> None:
        if self._stopping:
            return
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.forget, digests)

    def stop(self, seconds: float) -> None:
        self._stopping = True
        if self._loop.is_closed():
            return
        self._run(self._end(seconds))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _greet(self) -> None:
        """Ask each server for its model. Raises WrongServer."""
        found = await asyncio.gather(*(server.greet() for server in self._servers), return_exceptions=True)
        for server, error in zip(self._servers, found, strict=True):
            if isinstance(error, ServerAway):
                self._leave_out(server, error)
            elif error is not None:
                raise error
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """End the generations whose readers went away."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for task, generation in self._tasks.items():
                if generation.cancelled and not task.cancelling():
                    task.cancel()

    def _begin(self, generation: Generation) -> None:
        task = asyncio.create_task(self._answer(generation))
        self._tasks[task] = generation
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        generation = self._tasks.pop(task)
        self._open.discard(generation)
        generation.end("cancelled")  # of no effect where it has ended: else it was cancelled before it began

    async def _answer(self, generation: Generation) -> None:
        tried: list[VllmServer] = []
        try:
            while True:
                server = self._choose(tried)
                tried.append(server)
                try:
                    why, asked, reused = await server.generate(generation)
                except ServerAway as error:
                    self._leave_out(server, error)
                    if generation.out:
                        raise ServerFailed(f"{error} The answer had begun.", "Ask again.") from error
                    continue
                self._tokens[0] += asked
                self._tokens[1] += reused
                self._open.discard(generation)
                generation.end(why)
                return
        except asyncio.CancelledError:
            generation.end("cancelled")
            raise
        except Exception as error:
            self._open.discard(generation)
            generation.end(error)

    def _choose(self, tried: Sequence[VllmServer]) -> VllmServer:
        """Return the server with the fewest generations, and of several the next in turn. Raises NoServer."""
        there = [server for server in self._servers if server not in self._probes and server not in tried]
        if not there:
            raise NoServer(
                f"None of {len(self._servers)} vLLM servers answers.",
                "See their logs; they are tried every second.",
            )
        self._turn += 1
        fewest = min(server.running for server in there)
        idle = [server for server in there if server.running == fewest]
        return idle[self._turn % len(idle)]

    def _leave_out(self, server: VllmServer, error: ServerAway) -> None:
        if server not in self._probes:
            log.warning("left out until it answers", server=server.url, error=str(error))
            self._probes[server] = asyncio.create_task(self._probe(server))

    async def _probe(self, server: VllmServer) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await server.greet()
            except ServerAway:
                continue
            except WrongServer as error:
                log.error("left out", server=server.url, error=str(error))
                continue
            log.info("answers again", server=server.url)
            del self._probes[server]
            return

    async def _end(self, seconds: float) -> None:
        """Let what runs end, for some time, and cancel the rest."""
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        others = [*self._probes.values(), *([self._watcher] if self._watcher else [])]
        for other in others:
            other.cancel()
        await asyncio.gather(*others, *(server.close() for server in self._servers), return_exceptions=True)
