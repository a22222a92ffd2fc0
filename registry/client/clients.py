"""The two clients: one carries out exchanges synchronously, the other asynchronously."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from httpx_sse import EventSource
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from registry.client.administration import Administration
from registry.client.answers import Answers
from registry.client.corrections import Corrections
from registry.client.errors import MeloClientError, no_answer, refusal
from registry.client.exchanges import Asked, Exchange, Lines, whole_lines
from registry.client.history import History
from registry.client.training import Training

T = TypeVar("T")

RETRIED = frozenset({502, 503, 504})  # a proxy's answer, or the database is unreachable and may soon be back


class _Client(Corrections, Training, History, Answers, Administration):
    """The common base of both clients: their methods, and what they send with each request."""

    def __init__(
        self, api_url: str, api_key: str | None = None, actor: str | None = None, timeout_seconds: float = 120
    ) -> None:
        headers = {"User-Agent": "melo-client"}
        if api_key:
            headers["Authorization"] = f"Bearer {_as_header(api_key)}"
        if actor:
            headers["X-Melo-Actor"] = quote(actor, safe=" @/.+-_")
        self.api_url = api_url.rstrip("/")
        self._connection: dict[str, Any] = {
            "base_url": self.api_url,
            "headers": headers,
            "timeout": timeout_seconds,
        }


def _as_header(api_key: str) -> str:
    """Return the key in a form that a header can carry. Raises MeloClientError, which does not repeat the key."""
    key = api_key.strip()  # a key read from a file ends with a line break
    if not (key.isascii() and key.isprintable()):
        raise MeloClientError(
            "The API key is not valid",
            "It contains characters that no key has.",
            "Set MELO_API_KEY to the key exactly as `melo key create` showed it.",
        )
    return key


class MeloClient(_Client):
    """A client with one method per endpoint. Use it as a context manager, or close() it."""

    def __init__(
        self, api_url: str, api_key: str | None = None, actor: str | None = None, timeout_seconds: float = 120
    ) -> None:
        super().__init__(api_url, api_key, actor, timeout_seconds)
        self._http = httpx.Client(**self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def run(self, exchange: Exchange[T]) -> T:
        try:
            asked = next(exchange)
            while True:
                asked = exchange.send(self._answer(asked))
        except StopIteration as end:
            result: T = end.value
            return result

    def _answer(self, asked: Asked) -> httpx.Response:
        request = _request(asked)

        def send() -> httpx.Response:
            return self._http.request(**request, content=asked.content() if asked.content else None)

        with no_answer(self.api_url):
            answer: httpx.Response = Retrying(**_again())(send)
        if answer.is_error:
            raise refusal(answer)
        return answer

    def read(self, lines: Lines[T]) -> Iterator[T]:
        last: T | None = None
        again = True
        while again:
            with no_answer(self.api_url), closing(self._opened(lines)) as answer, _broken_off(lines):
                for line in _events(answer) if lines.events else _lines(answer):
                    if (found := lines.read(line)) is not None:
                        last = found
                        yield found
            again = lines.goes_on(last)
        lines.close(last)

    def _opened(self, lines: Lines[Any]) -> httpx.Response:
        def send() -> httpx.Response:
            request = self._http.build_request("GET", lines.path, params=lines.params, timeout=lines.seconds)
            answer = self._http.send(request, stream=True)
            if answer.is_error:
                answer.read()  # this closes it
            return answer

        answer: httpx.Response = Retrying(**_again())(send)
        if answer.is_error:
            raise refusal(answer)
        return answer


class AsyncMeloClient(_Client):
    """A client with the same methods, to be awaited; those with long answers are asynchronous iterators."""

    def __init__(
        self, api_url: str, api_key: str | None = None, actor: str | None = None, timeout_seconds: float = 120
    ) -> None:
        super().__init__(api_url, api_key, actor, timeout_seconds)
        self._http = httpx.AsyncClient(**self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, exchange: Exchange[T]) -> T:
        try:
            asked = next(exchange)
            while True:
                asked = exchange.send(await self._answer(asked))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _answer(self, asked: Asked) -> httpx.Response:
        request = _request(asked)

        async def send() -> httpx.Response:
            return await self._http.request(**request, content=_pieces(asked) if asked.content else None)

        with no_answer(self.api_url):
            answer: httpx.Response = await AsyncRetrying(**_again())(send)
        if answer.is_error:
            raise refusal(answer)
        return answer

    async def read(self, lines: Lines[T]) -> AsyncIterator[T]:
        last: T | None = None
        again = True
        while again:
            with no_answer(self.api_url):
                async with aclosing(await self._opened(lines)) as answer:
                    with _broken_off(lines):
                        async for line in _events_awaited(answer) if lines.events else _lines_awaited(answer):
                            if (found := lines.read(line)) is not None:
                                last = found
                                yield found
            again = lines.goes_on(last)
        lines.close(last)

    async def _opened(self, lines: Lines[Any]) -> httpx.Response:
        async def send() -> httpx.Response:
            request = self._http.build_request("GET", lines.path, params=lines.params, timeout=lines.seconds)
            answer = await self._http.send(request, stream=True)
            if answer.is_error:
                await answer.aread()
            return answer

        answer: httpx.Response = await AsyncRetrying(**_again())(send)
        if answer.is_error:
            raise refusal(answer)
        return answer


@contextmanager
def _broken_off(lines: Lines[Any]) -> Iterator[None]:
    """Treat a stream of events that breaks off, as when the server restarts, as one that only ended early."""
    try:
        yield
    except httpx.TransportError:
        if not lines.events:
            raise


def _events(answer: httpx.Response) -> Iterator[bytes]:
    for event in EventSource(answer).iter_sse():
        yield event.data.encode()


async def _events_awaited(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for event in EventSource(answer).aiter_sse():
        yield event.data.encode()


def _lines(answer: httpx.Response) -> Iterator[bytes]:
    rest = b""
    for part in answer.iter_bytes():
        whole, rest = whole_lines(rest, part)
        yield from whole


async def _lines_awaited(answer: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for part in answer.aiter_bytes():
        whole, rest = whole_lines(rest, part)
        for line in whole:
            yield line


def _request(asked: Asked) -> dict[str, Any]:
    """Return the request as httpx takes it, except for a body in pieces.

    A writing request carries an idempotency key, so that it has one effect however often it is sent.
    """
    key = {} if asked.method == "GET" else {"Idempotency-Key": str(uuid4())}
    request: dict[str, Any] = {
        "method": asked.method,
        "url": asked.path,
        "params": asked.params or None,
        "json": asked.json,
        "headers": {**key, **asked.headers},
    }
    return request | ({"timeout": None} if asked.patient else {})


async def _pieces(asked: Asked) -> AsyncIterator[bytes]:
    assert asked.content is not None
    for piece in asked.content():
        yield piece


def _again() -> dict[str, Any]:
    """Return the retry policy: a few attempts in some 30 seconds if no answer comes, or one from an intermediary."""
    return {
        "retry": retry_if_exception(_may_pass) | retry_if_result(lambda answer: answer.status_code in RETRIED),
        "wait": wait_exponential_jitter(multiplier=0.1, max=2, jitter=0.1),
        "stop": stop_after_attempt(4) | stop_after_delay(30),
        "retry_error_callback": _last,
    }


def _last(state: RetryCallState) -> Any:
    """Return the last answer, or raise the last error."""
    return state.outcome.result() if state.outcome else None


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
