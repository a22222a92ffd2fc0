"""The API: its routes, its errors as RFC 9457 problems, and whether it is ready."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import psycopg
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from registry.audit.endpoints import router as audit
from registry.body_limit import BodyLimit
from registry.collections.endpoints import router as collections
from registry.database import make_engine, make_sessions, schema_state
from registry.edits.endpoints import router as edits
from registry.errors import DatabaseAway, InvalidRequest, RegistryError, SchemaMismatch, TooLarge
from registry.http import require_access
from registry.jobs.endpoints import router as jobs
from registry.request_log import RequestLog, configure_logging
from registry.settings import Settings
from registry.versions.endpoints import router as versions
from registry.wire import Problem

log = structlog.get_logger("melo.api")

VERSION = version("melo-registry")


class SchemaGate:
    """Lets requests through once the database's schema is this program's; looks again until it is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open = False

    def require_current(self) -> None:
        if not self._open:
            self.look()

    def look(self) -> None:
        schema_state(self._engine).require_current()
        self._open = True


def app_factory() -> FastAPI:
    """What `uvicorn registry.app:app_factory --factory` serves."""
    configure_logging()
    return create_app(Settings())


def create_app(settings: Settings) -> FastAPI:
    engine = make_engine(settings.database_url, settings.statement_timeout_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(
        title="MELO registry",
        description="Corrections to language models, as versions that can be compared, audited and taken back.",
        version=VERSION,
        lifespan=lifespan,
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.sessions = make_sessions(engine)
    app.state.schema = SchemaGate(engine)
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes)
    app.add_middleware(RequestLog)
    for router in (collections, edits, jobs, versions, audit):
        app.include_router(router, dependencies=[Depends(require_access)])
    app.add_exception_handler(RegistryError, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(PoolTimeout, _database)
    app.add_exception_handler(Exception, _defect)

    @app.get("/healthz", tags=["operation"])
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": VERSION}

    @app.get("/readyz", tags=["operation"])
    def readyz(request: Request) -> dict[str, str]:
        """The database answers and has this program's schema; else 503 with the reason."""
        request.app.state.schema.look()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return {"status": "ready"}

    return app


class ProblemResponse(JSONResponse):
    """Escapes all that is not ASCII: a refused text may be one that UTF-8 cannot carry."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


def _problem(error: RegistryError, headers: dict[str, str] | None = None) -> JSONResponse:
    return ProblemResponse(error.as_json(), error.status, headers=headers)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RegistryError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return _problem(error, headers)


def _not_valid(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own checks of bodies and parameters, told as one sentence each."""
    assert isinstance(error, RequestValidationError)
    found = "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:20])
    return _problem(InvalidRequest(f"{found}.", "See /docs for the form of each request."))


def _http(request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework, such as an unknown path or a body over the limit."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        limit = request.app.state.settings.max_request_bytes
        return _problem(
            TooLarge(
                f"The request's body is larger than {limit:,} bytes.",
                "Send the records in several requests, or raise MELO_MAX_REQUEST_BYTES.",
            )
        )
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
    """What the database refuses or fails at, as something that a user can act on."""
    if isinstance(error, DBAPIError):
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return _problem(SchemaMismatch("The database's schema is not this program's.", "Run `melo migrate`."))
        if isinstance(error.orig, psycopg.errors.QueryCanceled):
            log.error("statement too slow", path=request.url.path)
            return _problem(
                DatabaseAway("The database took too long for this request.", "Ask for less, or try again later.")
            )
        if isinstance(error, DataError):
            return _problem(InvalidRequest(f"The database cannot hold a value: {error.orig}.", "Correct the value."))
        away = error.connection_invalidated or isinstance(error, OperationalError)
        if not away or isinstance(error, ProgrammingError):
            return _defect(request, error)
    log.error("database away", error=str(error).splitlines()[0])
    return _problem(
        DatabaseAway(
            "The database does not answer.",
            "When it is back (`melo status`), see whether the request had an effect, and repeat it if not.",
        )
    )


def _defect(request: Request, error: Exception) -> JSONResponse:
    log.error("defect", path=request.url.path, exc_info=error)
    problem = RegistryError(
        "The server met an error that it does not know.",
        f"Report it with the request id {request.state.request_id}.",
    )
    body = problem.as_json() | {"status": 500, "code": "defect", "title": "A defect of the server"}
    headers = {"X-Request-ID": request.state.request_id}  # this answer does not pass through the middleware
    return ProblemResponse(body, 500, headers=headers)
