"""A process's metrics registry, and the small web server that shows it, in a thread of the relay or a worker."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, ThreadingWSGIServer

from registry.base.errors import InvalidRequest
from registry.base.probes import ProbeFailed
from registry.base.settings import Settings

log = structlog.get_logger("melo.metrics")

Ready = Callable[[], None]  # raises ProbeFailed with the reason if the process cannot work
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_JSON = "application/json"


def new_registry() -> CollectorRegistry:
    """Create a registry for one process, with its memory, CPU seconds and open files."""
    # Disable the additional series with creation times: in the plain format nothing reads them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def page(registry: CollectorRegistry) -> bytes:
    """Return all metrics as text, of the type CONTENT_TYPE.

    Always in the plain format, whatever is requested: Prometheus and everything else can read it.
    """
    return generate_latest(registry)


@contextmanager
def shown(settings: Settings, registry: CollectorRegistry, ready: Ready) -> Iterator[int | None]:
    """Serve /metrics, /healthz and /readyz on MELO_METRICS_PORT, if it is set, while the block runs.

    Yields the port. No authentication is required there. Raises InvalidRequest if the port is not available.
    """
    if settings.metrics_port is None:
        yield None
        return
    server = _bound(settings.metrics_host, settings.metrics_port, _application(registry, ready))
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="metrics")
    thread.start()
    log.info("metrics and health are shown", host=settings.metrics_host, port=server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _application(registry: CollectorRegistry, ready: Ready) -> WSGIApplication:
    def metrics() -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, CONTENT_TYPE, page(registry)

    def healthz() -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, _JSON, json.dumps({"status": "ok"}).encode()

    def readyz() -> tuple[HTTPStatus, str, bytes]:
        try:
            ready()
        except ProbeFailed as reason:
            told = {"status": "not ready", "reason": str(reason)}
            return HTTPStatus.SERVICE_UNAVAILABLE, _JSON, json.dumps(told).encode()
        return HTTPStatus.OK, _JSON, json.dumps({"status": "ready"}).encode()

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}

    def application(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        shown_page = pages.get(environment["PATH_INFO"])
        if shown_page is None:
            status, kind, body = HTTPStatus.NOT_FOUND, "text/plain", f"There are {', '.join(pages)}.\n".encode()
        elif environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"Only GET.\n"
        else:
            status, kind, body = shown_page()
        start(f"{status} {status.phrase}", [("Content-Type", kind), ("X-Content-Type-Options", "nosniff")])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    return application


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds without a byte: an idle connection must not hold a thread forever

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a line per scrape would be too much."""


def _bound(host: str, port: int, application: WSGIApplication) -> ThreadingWSGIServer:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]

        class Server(ThreadingWSGIServer):
            address_family = family

        return make_server(str(address[0]), port, application, Server, _Handler)
    except OSError as error:
        raise InvalidRequest(
            f"Metrics and health cannot be served on port {port} of {host}: {error.strerror or error}.",
            "Set MELO_METRICS_PORT (and MELO_METRICS_HOST) to where nothing else listens, or to nothing.",
        ) from None
