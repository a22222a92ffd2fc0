"""Authentication: every request is stopped here, before its body is read, unless its caller is known."""

import hmac
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access import names, service
from registry.access.caller import EVERYWHERE, Caller
from registry.access.keys import KeyText
from registry.api.problems import answer_to
from registry.api.rates import Rates
from registry.base.errors import InvalidRequest, NotLocal, Unauthorized
from registry.base.settings import Settings

# Served to everybody: health and documentation.
OPEN = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
# Set by proxies: the client behind one is not on this machine, even though the connection comes from it.
_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


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
        placeholders: bool = False,
        authenticate: Authenticate = _by_record,
    ) -> None:
        """answer: what a caller who is not admitted is told. open_paths: served to everybody. placeholders: where this
        machine needs no key, a text that is none does not matter: OpenAI's clients cannot leave it out. authenticate:
        returns whose a key is, or raises Unauthorized.
        """
        self.app, self.answer, self.open_paths, self.placeholders = app, answer, open_paths, placeholders
        self.authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            caller = await _admit(request, self.placeholders, self.authenticate)
        except Exception as error:
            await self.answer(request, error)(scope, receive, send)
            return
        request.state.caller = caller
        with structlog.contextvars.bound_contextvars(actor=caller.actor, key=caller.key_prefix):
            await self.app(scope, receive, send)


async def _admit(request: Request, placeholders: bool, authenticate: Authenticate) -> Caller:
    """Return the caller. Raises Unauthorized, NotLocal, TooManyRequests or InvalidRequest."""
    settings: Settings = request.app.state.settings
    needs_key = settings.require_key or _operators_key(settings) is not None
    no_key = "Authorization" not in request.headers or (placeholders and KeyText.read(_bearer(request)) is None)
    if no_key and not needs_key and _is_this_machine(request):
        _require_local_name(request)
        return _operator(request)
    # In a thread, because it queries the database and perhaps Redis.
    return await run_in_threadpool(_admit_by_key, request, settings, authenticate)


def _admit_by_key(request: Request, settings: Settings, authenticate: Authenticate) -> Caller:
    rates: Rates = request.app.state.rates
    address = _address(request)
    given = _bearer(request)
    # Only a key chosen by an operator can be guessed. Keys created here cannot, so they are admitted even if the
    # address has failed too often: it may be shared, such as a proxy's.
    if KeyText.read(given) is None:
        rates.require_unlocked(address)
    try:
        caller = _by_key(request, settings, given, authenticate)
    except Unauthorized:
        rates.failed(address)
        raise
    rates.spend(caller.identity)
    return caller


def _by_key(request: Request, settings: Settings, given: str, authenticate: Authenticate) -> Caller:
    own = _operators_key(settings)
    if own is not None and hmac.compare_digest(given.encode(), own.encode()):
        return _operator(request)
    if not given:
        raise Unauthorized(
            "The request carries no API key.",
            "Give one in `Authorization: Bearer KEY`; an admin makes keys with `melo key create`.",
        )
    return authenticate(request, given)


def _operators_key(settings: Settings) -> str | None:
    """Return MELO_API_KEY, unless it is one of the keys created here.

    The holder of such a key may start a server from the same shell, which must not make them an admin, nor others who
    have it.
    """
    text = settings.api_key.get_secret_value() if settings.api_key else ""
    return text if text and KeyText.read(text) is None else None


def _operator(request: Request) -> Caller:
    """Return the operator as the caller: an admin everywhere, who names the person they act for."""
    given = request.headers.get("X-Melo-Actor", "").strip() or "anonymous"
    try:
        name = names.received(given)
    except ValueError as error:  # also what is percent-encoded and no UTF-8
        reason = "it is no UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise InvalidRequest(f"The actor's name cannot be used: {reason}.", "Give another in `X-Melo-Actor`.") from None
    return Caller(actor=name, identity="operator", roles=EVERYWHERE)


def _bearer(request: Request) -> str:
    """Return the key in the request, or an empty text if there is none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _is_this_machine(request: Request) -> bool:
    return _is_loopback(_address(request)) and not any(name in request.headers for name in _PROXIED)


def _require_local_name(request: Request) -> None:
    """Raise NotLocal if the request may come from a web page of another site, in the user's own browser.

    Such a page can make its own name resolve to 127.0.0.1 (DNS rebinding), but not the name localhost; and a cross-site
    request carries an Origin.
    """
    names = [_host_of(request.headers.get("Host", ""))]
    if "Origin" in request.headers:
        names.append(_host_of_origin(request.headers["Origin"]))
    if not all(_is_loopback(name) for name in names):
        raise NotLocal(
            "Without an API key, this server answers only at localhost or 127.0.0.1.",
            "Use one of these addresses, or give a key (`melo key create`).",
        )


def _host_of_origin(header: str) -> str:
    try:
        return urlsplit(header).hostname or ""
    except ValueError:
        return ""


def _host_of(header: str) -> str:
    """Return the Host header without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
