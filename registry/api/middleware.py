"""Middleware: each request gets an id and a line in the log, and is counted."""

import re
import time
from http import HTTPMethod
from typing import Self
from uuid import uuid4

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from registry.base.settings import ROOT_PATH

log = structlog.get_logger("melo.api")
_CLEAN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset(HTTPMethod)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RequestLog:
    """ASGI middleware that gives every request an id, in its answer and in one JSON log line.

    A caller's own X-Request-ID is kept if it is a plain word.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("X-Request-ID", "")
        request_id = given if _CLEAN.fullmatch(given) else uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        start = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"  # never run an answer as a script
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                caller = state.get("caller")  # missing: not admitted
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round((time.perf_counter() - start) * 1000, 1),
                    client=scope["client"][0] if scope.get("client") else None,
                    actor=caller.actor if caller else None,
                    key=caller.key_prefix if caller else None,
                )


class UnderPath:
    """ASGI middleware that serves an application under a path of a proxy's, whether the proxy takes it off or not.

    Links in answers, such as those of the documentation, begin with the path. The server may name it too, as uvicorn
    does with --root-path, and then puts it in front of each request's. Where neither names one, a trusted proxy may, in
    X-Forwarded-Prefix, as Traefik does with what it takes off.
    """

    def __init__(self, app: ASGIApp, root_path: str, trusted_proxies: str) -> None:
        self.app, self.root_path = app, root_path.rstrip("/")
        self._trusted = (
            ProxyHeadersMiddleware(app, trusted_proxies).trusted_hosts  # type: ignore[arg-type]
            if trusted_proxies
            else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        root = scope.get("root_path", "").rstrip("/") or self.root_path or self._forwarded(scope)
        if not root:
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        for _ in range(2):  # by the server, and by a proxy that leaves it on
            if path.startswith(f"{root}/"):
                path = path.removeprefix(root)
        await self.app({**scope, "root_path": root, "path": root + path}, receive, send)

    def _forwarded(self, scope: Scope) -> str:
        """Return the path that a trusted proxy names; several proxies name a part each, the outermost first."""
        host, port = scope.get("client") or ("", None)
        # Uvicorn puts the address that a trusted proxy forwards in the place of the proxy's, with the port 0.
        if self._trusted is None or not (port == 0 or host in self._trusted):
            return ""
        parts = ",".join(Headers(scope=scope).getlist("X-Forwarded-Prefix")).split(",")
        path = "".join(part.strip().rstrip("/") for part in parts)
        return path if re.fullmatch(ROOT_PATH, path) else ""


def path_within(scope: Scope) -> str:
    """Return a request's path as the application's routes know it, without that of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


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
