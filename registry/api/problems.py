"""Errors as answers: RFC 9457 problems, each with a code and a remedy."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from registry.api.bodies import BodyRefused
from registry.api.conditional import NotModified
from registry.base.database_errors import explained, is_named, sqlstate
from registry.base.errors import InvalidRequest, RegistryError, SchemaMismatch, first_line
from registry.base.wire import in_words

log = structlog.get_logger("melo.api")


class ProblemResponse(JSONResponse):
    """A response that escapes everything but ASCII: a rejected text may be one that UTF-8 cannot encode."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


def add_handlers(app: FastAPI) -> None:
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(NotModified, _not_modified)
    app.add_exception_handler(Exception, _defect)


def answer_to(request: Request, error: Exception) -> JSONResponse:
    """Return the answer to an error, for middleware, which is outside the handlers. Raises a defect unchanged."""
    for kind, handler in _HANDLERS.items():
        if isinstance(error, kind):
            return handler(request, error)
    raise error


def _problem(error: RegistryError) -> JSONResponse:
    return ProblemResponse(error.as_json(), error.status, headers=dict(error.headers))


def _not_modified(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotModified)
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=error.headers)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RegistryError)
    return _problem(error)


def _not_valid(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own validation of bodies and parameters, told as one sentence each."""
    assert isinstance(error, RequestValidationError)
    found = "; ".join(
        f"{'.'.join(str(part) for part in each['loc'])}: {in_words(each)}" for each in error.errors()[:20]
    )
    remedy = "See `/docs` for what it takes."
    told = request.headers.get("Content-Type", "")
    if "json" not in told and any(each["loc"] == ("body",) for each in error.errors()):
        remedy = (
            f"Send the body as JSON with the header Content-Type: application/json; it came as {told or 'nothing'}."
        )
    return _problem(InvalidRequest(f"{found}.", remedy))


def _http(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the framework, such as an unknown path or a body over the limit."""
    assert isinstance(error, HTTPException)
    if isinstance(error, BodyRefused):
        return _problem(error.error)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "code": HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"),
        "detail": f"{request.method} {request.url.path}: {error.detail}.",
        "remedy": "See /docs for the paths and their limits.",
        "problems": [],
    }
    return ProblemResponse(body, error.status_code, headers=dict(error.headers or {}))


def _database(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the database, as something that a user can act on."""
    if isinstance(error, DBAPIError):
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return _problem(SchemaMismatch("The database's schema does not match this program.", "Run `melo migrate`."))
        if is_named(error):
            log.error("database", path=request.url.path, error=first_line(error), state=sqlstate(error))
            return _problem(explained(error))
        if isinstance(error, DataError):
            return _problem(InvalidRequest(f"The database cannot hold a value: {error.orig}.", "Correct the value."))
        away = error.connection_invalidated or isinstance(error, OperationalError)
        if not away or isinstance(error, ProgrammingError):
            return _defect(request, error)
    log.error("database away", error=first_line(error))
    return _problem(explained(error, to_operator=False))


def _defect(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error):
        # Neither the statement nor the server's DETAIL: both quote rows, which may hold secrets or erased content.
        told = error.orig.diag
        log.error(
            "defect", path=request.url.path, error=told.message_primary, state=told.sqlstate, of=told.constraint_name
        )
    else:
        log.error("defect", path=request.url.path, exc_info=error)
    problem = RegistryError(
        "The server failed with an unexpected error.",
        f"Report it with the request id {request.state.request_id}.",
    )
    body = problem.as_json() | {"status": 500, "code": "defect", "title": "A defect of the server"}
    # This answer bypasses the middleware that sets these headers on all others.
    headers = {"X-Request-ID": request.state.request_id, "X-Content-Type-Options": "nosniff"}
    return ProblemResponse(body, 500, headers=headers)


_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], JSONResponse]] = {
    RegistryError: _refused,
    RequestValidationError: _not_valid,
    HTTPException: _http,
    DBAPIError: _database,
    PoolTimeout: _database,
}
