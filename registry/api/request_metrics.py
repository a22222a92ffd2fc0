"""Metrics of the API's requests: their number, status and duration."""

import time
from http import HTTPMethod
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset(HTTPMethod)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RequestCounts:
    """Counts by the route's template, never by the path: its ids and names would create unlimited series."""

    def __init__(self, answered: Counter, seconds: Histogram) -> None:
        self._answered = answered
        self._seconds = seconds

    @classmethod
    def make(cls, registry: CollectorRegistry) -> Self:
        return cls(
            Counter("melo_http_requests_total", "Answers", ["route", "method", "status"], registry=registry),
            Histogram(
                "melo_http_request_seconds",
                "From a request to the beginning of its answer",
                ["route", "method"],
                registry=registry,
                buckets=_SECONDS,
            ),
        )

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        # A request that is refused earlier, or whose path does not exist, has no route.
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._answered.labels(route, method, status).inc()
        self._seconds.labels(route, method).observe(seconds)


class RequestMetrics:
    """ASGI middleware that counts requests."""

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self.app = app
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        begun = False

        async def send_and_count(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                # Measured at the start: the end of a streamed answer, such as a batch's progress, says nothing.
                self.counts.answered(scope, message["status"], time.perf_counter() - start)
            await send(message)

        try:
            await self.app(scope, receive, send_and_count)
        except Exception:
            if not begun:
                self.counts.answered(scope, 500, time.perf_counter() - start)
            raise
