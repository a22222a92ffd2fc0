"""One vLLM server, over its own HTTP API."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import structlog
from httpx_sse import EventSource, SSEError

from registry.base.errors import InvalidRequest, RegistryError, UserError
from serving.engines.port import Ended, Generation, Token

log = structlog.get_logger("melo.serve")

CONNECT_SECONDS = 5.0
READ_SECONDS = 600.0  # a first token waits for vLLM's queue
AWAY = frozenset({502, 503, 504})
MOST_TOP = 20  # most probable tokens that vLLM tells of, unless it is started with another --max-logprobs


class ServerAway(Exception):
    """The server does not answer, or stopped to."""


class WrongServer(UserError):
    """The server is not one for this model."""

    title = "The vLLM server cannot be used"


class ServerFailed(RegistryError):
    status = 502
    code = "engine-failed"
    title = "A vLLM server failed"


class VllmServer:
    """A server and the names of the blocks that it has been asked for."""

    def __init__(self, url: str, model: str, end_tokens: frozenset[int], key: str | None, most_names: int) -> None:
        self.url, self.running = url, 0
        self._model, self._end_tokens, self._most_names = model, sorted(end_tokens), most_names
        self._names: OrderedDict[str, int] = OrderedDict()  # answers that use it now; the least recently used first
        self._forgotten = set[str]()  # of these: to be unloaded when nobody uses them
        self._window: int | None = None  # tokens of prompt and answer together
        self._unloading: set[asyncio.Task[None]] = set()
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(CONNECT_SECONDS, read=READ_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def greet(self) -> None:
        """Ask what it serves. Raises ServerAway, or WrongServer where it is not the base model under its name."""
        if not self.url.startswith(("http://", "https://")):
            raise WrongServer(f"{self.url!r} is not an address.", "Write it as http://HOST:PORT.")
        with _answering(self.url):
            answer = await self._http.get("/v1/models", timeout=CONNECT_SECONDS)
        if answer.status_code in (401, 403):
            raise WrongServer(f"{self.url} refuses the key.", "Set MELO_VLLM_API_KEY to the key of its --api-key.")
        if answer.is_error:
            raise ServerAway(f"{self.url} answers {answer.status_code}.")
        try:
            told = {each["id"]: each for each in answer.json()["data"] if each.get("parent") is None}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WrongServer(f"{self.url} is no vLLM server.", "Name the address without /v1.") from error
        if self._model not in told:
            raise WrongServer(
                f"{self.url} serves {', '.join(told) or 'nothing'}, and not {self._model}.",
                f"Start it with the same weights and --served-model-name {self._model}.",
            )
        self._window = told[self._model].get("max_model_len")
        self._forgotten.clear()
        self._names.clear()  # it may have been started anew

    async def generate(self, generation: Generation) -> tuple[Ended, int, int]:
        """Generate; return why it ended, the prompt's tokens, and those of them that were not computed again.

        Raises ServerAway where the server went away, ServerFailed or InvalidRequest.
        """
        name = generation.block.sha256 if generation.block is not None else None
        with self._in_use(name), _answering(self.url):
            async with self._http.stream("POST", "/v1/completions", json=self._request(generation, name)) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise self._refusal(answer, name)
                return await self._read(generation, answer)

    async def close(self) -> None:
        await asyncio.gather(*self._unloading, return_exceptions=True)
        await self._http.aclose()

    async def _read(self, generation: Generation, answer: httpx.Response) -> tuple[Ended, int, int]:
        why: Ended | None = None
        usage: Mapping[str, Any] = {}
        async for event in _events(answer):
            if "error" in event:
                raise ServerFailed(f"{self.url}: {_message(event)}", "Look at its log.")
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                for token in _tokens(choice, generation.top_logprobs):
                    generation.out.append(token.id)
                    if generation.on_token(token):
                        return "stop", len(generation.ids), 0
                why = self._ended(choice) or why
        if why is None:
            raise ServerAway(f"{self.url} broke off.")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return why, len(generation.ids), cached

    def _ended(self, choice: Mapping[str, Any]) -> Ended | None:
        match choice.get("finish_reason"):
            case None:
                return None
            case "stop":
                return "stop"
            case "length":
                return "length"
            case other:
                raise ServerFailed(f"{self.url} ended the answer: {other}.", "Look at its log.")

    def _request(self, generation: Generation, name: str | None) -> dict[str, Any]:
        """Return the request. All that a server's own defaults could change is named."""
        limit, sampling, top = generation.limit, generation.sampling, generation.top_logprobs
        if self._window is not None:
            limit = min(limit, self._window - len(generation.ids))
            if limit < 1:
                raise InvalidRequest(
                    f"The prompt has {len(generation.ids)} tokens, and {self.url} has a window of {self._window}.",
                    "Shorten the prompt, or start vLLM with a greater --max-model-len.",
                )
        if top is not None and top > MOST_TOP:
            raise InvalidRequest(f"top_logprobs is {top}.", f"vLLM tells at most {MOST_TOP}.")
        return {
            "model": name or self._model,
            "prompt": generation.ids,
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": self._end_tokens,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **({} if generation.schema is None else {"structured_outputs": {"json": generation.schema}}),
            **({} if top is None else {"logprobs": top, "return_tokens_as_token_ids": True}),
        }

    def _refusal(self, answer: httpx.Response, name: str | None) -> Exception:
        try:
            said = _message(answer.json())
        except ValueError:
            said = answer.text[:200]
        if answer.status_code in AWAY:
            return ServerAway(f"{self.url} answers {answer.status_code}: {said}")
        if answer.status_code == 404 and name is not None:
            return ServerFailed(
                f"{self.url} has no block {name}: {said}",
                "Its plugin fetches blocks with MELO_API_URL and MELO_API_KEY, whose role must cover the collection.",
            )
        return ServerFailed(f"{self.url} answers {answer.status_code}: {said}", "Look at its log.")

    @contextmanager
    def _in_use(self, name: str | None) -> Iterator[None]:
        self.running += 1
        if name is not None:
            self._names[name] = self._names.get(name, 0) + 1
            self._names.move_to_end(name)
        try:
            yield
        finally:
            self.running -= 1
            if name is not None and name in self._names:
                self._names[name] -= 1
                self._unload_unused()

    def forget(self, names: frozenset[str]) -> None:
        """Have names unloaded, those in use as soon as they are not: their blocks may have been erased."""
        self._forgotten |= names & self._names.keys()
        self._unload_unused()

    def _unload_unused(self) -> None:
        """Have names unloaded that are to be forgotten or least recently used: vLLM keeps all that it was asked for."""
        idle = [name for name, users in self._names.items() if users <= 0]
        gone = [name for name in idle if name in self._forgotten]
        kept = [name for name in idle if name not in self._forgotten]
        for name in gone + kept[: max(0, len(self._names) - len(gone) - self._most_names)]:
            del self._names[name]
            self._forgotten.discard(name)
            task = asyncio.create_task(self._unload(name))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def _unload(self, name: str) -> None:
        try:
            answer = await self._http.post("/v1/unload_lora_adapter", json={"lora_name": name})
            if answer.is_error and answer.status_code != 404:  # another router may have unloaded it
                log.warning("not unloaded", server=self.url, block=name, status=answer.status_code)
        except httpx.HTTPError as error:
            log.warning("not unloaded", server=self.url, block=name, error=repr(error))


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Raise ServerAway where the connection cannot be made, or breaks."""
    try:
        yield
    except httpx.TransportError as error:
        raise ServerAway(f"{url} does not answer: {str(error) or type(error).__name__}.") from error


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    try:
        async for event in EventSource(answer).aiter_sse():
            if event.data != "[DONE]":
                yield json.loads(event.data)
    except (SSEError, ValueError) as error:
        raise ServerFailed(f"{answer.url} sent no stream of events: {error}.", "Is it a vLLM server?") from error


def _tokens(choice: Mapping[str, Any], top: int | None) -> Iterator[Token]:
    ids = choice.get("token_ids") or []
    if top is None:
        yield from (Token(token) for token in ids)
        return
    logprobs = choice.get("logprobs") or {"token_logprobs": [], "top_logprobs": []}
    for token, logprob, others in zip(ids, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        ranked = sorted(others.items(), key=lambda pair: -pair[1])[:top]  # vLLM adds the chosen one
        yield Token(token, logprob, tuple((int(name.removeprefix("token_id:")), value) for name, value in ranked))


def _message(told: Any) -> str:
    error = told.get("error", told) if isinstance(told, dict) else told
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
