"""The application: its routes, its middleware and its readiness."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from sqlalchemy import Engine

from registry.access.operator import OperatorKeys
from registry.api.documentation import serve_documentation
from registry.api.endpoints.access import router as access
from registry.api.endpoints.answers import log_router as answer_log
from registry.api.endpoints.answers import router as answers
from registry.api.endpoints.audit import router as audit
from registry.api.endpoints.blocks import router as blocks
from registry.api.endpoints.collections import router as collections
from registry.api.endpoints.edits import router as edits
from registry.api.endpoints.erasure import router as erasure
from registry.api.endpoints.jobs import router as jobs
from registry.api.endpoints.metrics import router as metrics
from registry.api.endpoints.versions import router as versions
from registry.api.endpoints.webhooks import router as webhooks
from registry.api.following import Streams
from registry.api.gate import Gate
from registry.api.http import MOST_TRANSACTIONS
from registry.api.middleware import RequestCounts, RequestLog, RequestMetrics, UnderPath
from registry.api.openapi import complete
from registry.api.problems import add_handlers
from registry.api.rates import Rates
from registry.api.traces import NO_TRACES, Traces, exported
from registry.audit.trust import signing_of
from registry.base.database import make_engine, make_sessions, require_writable, schema_state
from registry.base.errors import UserError
from registry.base.logging import configure_logging
from registry.base.settings import Settings
from registry.metrics.exposition import new_registry
from registry.metrics.queue import QueueCollector

VERSION = version("melo-registry")


class SchemaGate:
    """Blocks requests until the database has the schema of this program; looks again until it does."""

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
    """Create the application for `uvicorn registry.api.app:app_factory --factory`."""
    configure_logging()
    try:
        return create_app(Settings(), exported("melo-api"))
    except UserError as error:
        sys.exit(f"{error.title}: {error}")


def create_app(settings: Settings, traces: Traces = NO_TRACES) -> FastAPI:
    """Create the application. Raises UnusableKey."""
    operator = OperatorKeys.of(settings)
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
        docs_url=None,  # its page takes scripts from another site
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.operator = operator
    app.state.engine = engine
    app.state.sessions = make_sessions(engine, signing=signing_of(settings))
    app.state.turns = CapacityLimiter(MOST_TRANSACTIONS)
    app.state.schema = SchemaGate(engine)
    app.state.metrics = new_registry()
    app.state.metrics.register(QueueCollector(app.state.sessions))
    app.state.rates = Rates(settings.rate_limit, settings.redis_url)
    app.state.streams = Streams()
    # The last middleware added runs first: a request gets an id, and is then authenticated.
    app.add_middleware(Gate)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestMetrics, counts=RequestCounts.make(app.state.metrics))
    app.add_middleware(UnderPath, root_path=settings.root_path, trusted_proxies=settings.trusted_proxies)
    for router in (
        collections,
        edits,
        jobs,
        versions,
        blocks,
        audit,
        erasure,
        access,
        webhooks,
        answers,
        answer_log,
        metrics,
    ):
        app.include_router(router)
    serve_documentation(app)
    add_handlers(app)

    @app.get("/healthz", tags=["operation"])
    def healthz() -> dict[str, str]:
        """Confirm that the process answers."""
        return {"status": "ok", "version": VERSION}

    @app.get("/readyz", tags=["operation"])
    def readyz(request: Request) -> dict[str, str]:
        """Confirm that the database can be written and has this program's schema; otherwise answer 503 with why."""
        request.app.state.schema.look()
        require_writable(engine)
        return {"status": "ready"}

    complete(app)
    traces.instrument(app)
    return app
