"""Authentication: every request is stopped here, before its body is read, unless its caller is known."""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import structlog
from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access import names, service
from registry.access.caller import EVERYWHERE, Caller
from registry.access.operator import OperatorKeys
from registry.api.documentation import PATHS
from registry.api.middleware import path_within
from registry.api.problems import answer_to
from registry.api.rates import Rates
from registry.api.watch import Watch
from registry.base.errors import CrossSite, InvalidRequest, Unauthorized
from registry.base.settings import Settings

# Served to everybody: health and documentation.
OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"}) | PATHS
_WITH_PORT = re.compile(r"^(?:\[(.+)\](?::\d+)?|([^:]+):\d+)$")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

Authenticate = Callable[[Request, str], Caller]


def _by_record(request: Request, key: str) -> Caller:
    """Look a key up in the database, for every request: a revoked one is refused at once."""
    request.app.state.schema.require_current()
    with request.app.state.sessions.begin() as session:
        return service.authenticate(session, key)


class Gate:
    """ASGI middleware. Stores the Caller in the request's state, and adds its name and key prefix to the log lines."""

    def __init__(
        self,
        app: ASGIApp,
        answer: Callable[[Request, Exception], Response] = answer_to,
        open_paths: frozenset[str] = OPEN,
        ends: frozenset[str] = _READING,
        authenticate: Authenticate = _by_record,
    ) -> None:
        """answer: what a caller who is not admitted is told. open_paths: served to everybody. ends: methods whose
        requests end when the caller's key does. authenticate: returns whose a key is, or raises Unauthorized.
        """
        self.app, self.answer, self.open_paths, self.ends = app, answer, open_paths, ends
        self.authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_within(scope) in self.open_paths:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            caller = await _admit(request, self.authenticate)
        except Exception as error:
            await self.answer(request, error)(scope, receive, send)
            return
        request.state.caller = caller
        with structlog.contextvars.bound_contextvars(actor=caller.actor, key=caller.key_prefix):
            if caller.key_prefix is None or scope["method"] not in self.ends:
                await self.app(scope, receive, send)
                return
            watch = Watch(lambda: self.authenticate(request, bearer_of(request)), caller)
            await watch.run(self.app, scope, receive, send)
            if watch.refusal is not None and not watch.started:
                await self.answer(request, watch.refusal)(scope, receive, send)


async def _admit(request: Request, authenticate: Authenticate) -> Caller:
    """Return the caller. Raises CrossSite, Unauthorized, TooManyRequests or InvalidRequest."""
    _require_same_site(request)
    given = bearer_of(request)
    operator: OperatorKeys = request.app.state.operator
    if operator.include(given):
        return _operator(request)
    # In a thread, because it queries the database and perhaps Redis.
    return await run_in_threadpool(_admit_by_key, request, given, authenticate)


def _admit_by_key(request: Request, given: str, authenticate: Authenticate) -> Caller:
    """Return whose key it is, and count the request, or the failure.

    No key that is admitted can be guessed: weak ones are refused at start, and those created here are random. So the
    right one is admitted even from an address that failed too often, which may be shared, such as a proxy's.
    """
    rates: Rates = request.app.state.rates
    try:
        if not given:
            raise Unauthorized(
                "The request carries no API key, or more than one.",
                "Give one in `Authorization: Bearer KEY`; an admin makes keys with `melo key create`.",
            )
        caller = authenticate(request, given)
    except Unauthorized:
        rates.failed(_address(request))
        raise
    rates.spend(caller.identity)
    return caller


def _operator(request: Request) -> Caller:
    """Return the operator as the caller: an admin everywhere, who names the person they act for."""
    headers = request.headers.getlist("X-Melo-Actor")
    if len(headers) > 1:
        raise InvalidRequest("The request names two actors: `X-Melo-Actor` stands there twice.", "Name one person.")
    given = "".join(headers).strip() or "anonymous"
    try:
        name = names.received(given)
    except ValueError as error:  # also what is percent-encoded and no UTF-8
        reason = "it is no UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise InvalidRequest(f"The actor's name cannot be used: {reason}.", "Give another in `X-Melo-Actor`.") from None
    return Caller(actor=name, identity="operator", roles=EVERYWHERE)


def bearer_of(request: Request) -> str:
    """Return the key in the request, or an empty text if there is none, or more than one."""
    headers = request.headers.getlist("Authorization")
    scheme, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    return given.strip() if scheme.lower() == "bearer" else ""


def _address(request: Request) -> str:
    """Return where a request comes from, for counting.

    Uvicorn believes X-Forwarded-For from this machine unless it is told whom to believe. Everybody here can write such
    a header, with another address for every guess, so where no proxy is trusted all of them count as one.
    """
    settings: Settings = request.app.state.settings
    if "X-Forwarded-For" in request.headers and not settings.trusted_proxies:
        return "a proxy that FORWARDED_ALLOW_IPS does not name"
    return _subscriber(request.client.host) if request.client else ""


def _subscriber(host: str) -> str:
    """Return what one subscriber has: an IPv4 address, or a network of 2**64 IPv6 addresses.

    host: an address, to which some proxies add a port.
    """
    bare = _WITH_PORT.sub(lambda found: found[1] or found[2], host)
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return host[:100]
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def _require_same_site(request: Request) -> None:
    """Raise CrossSite for a request that a page of another site makes in a user's browser.

    A page can send some requests to any address without asking the server (the Fetch standard calls them simple). What
    the browser says of them, a page cannot change: Sec-Fetch-Site or, in old browsers and over plain HTTP, Origin.
    """
    if request.method in _READING:
        return
    told = request.headers.get("Sec-Fetch-Site")
    if told is None and (origin := request.headers.get("Origin")) is not None:
        told = "same-origin" if _host_of(origin) == request.headers.get("Host", "").lower() else "cross-site"
    if told not in (None, "same-origin", "none"):
        raise CrossSite(
            "A page of another site made this request.", "Send it from a program, or from a page of this server."
        )


def _host_of(origin: str) -> str:
    """Return an origin's host and port as a Host header names them, or an empty text if it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
