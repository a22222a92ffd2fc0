"""The command `melo serve`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from worker.record import record_of

if TYPE_CHECKING:
    from registry.collections.schemas import CollectionView
    from serving.sources.port import Source

POLL_SECONDS = 1.0  # between looks for the first collection


def register(app: typer.Typer) -> None:
    """Add the command. Raises ModuleNotFoundError where a dependency is not installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    add_command(app, serve, "melo serve --port 8420", has_json=False)


def serve(
    call: Invocation,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen at; other machines need an API key. Default: MELO_SERVE_HOST, 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen at; 0: a free one. Default: MELO_SERVE_PORT, 8420."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The base model to serve. Default: MELO_SERVE_MODEL, that of the oldest collection."
        ),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Requests answered at once.")] = 16,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; the next is refused.")] = 256,
    prefix_mb: Annotated[
        int, typer.Option("--prefix-mb", min=0, help="Memory for the beginnings of earlier prompts.")
    ] = 256,
    versions_mb: Annotated[
        int, typer.Option("--versions-mb", min=1, help="Memory for versions: their indexes and texts.")
    ] = 2048,
    blocks_mb: Annotated[int, typer.Option("--blocks-mb", min=1, help="Memory for blocks that acted.")] = 512,
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Get versions from the registry's API, with the key in MELO_API_KEY, and not from the database. "
            "Default: MELO_SERVE_REGISTRY.",
        ),
    ] = None,
) -> None:
    """Answer any OpenAI client with any version: facts@production, facts@17, facts@base. Ctrl-C stops it.

    Where there is no collection yet, it waits for the first.
    """
    host, port = host or call.settings.serve_host, call.settings.serve_port if port is None else port
    with _source(call, registry or call.settings.serve_registry) as source:
        collections = _collections(call, source)
        from serving.versions import model_to_serve

        model = model or call.settings.serve_model or None
        name, digest = model_to_serve(collections, model)
        others = {each.model for each in collections} - {name}
        if model is None and others:
            call.err.print(
                f"This server has the model of the oldest collection, {name}. For {', '.join(sorted(others))} start "
                "others: melo serve --model NAME --port PORT"
            )
        with call.err.status(f"loading {name}"):
            import uvicorn

            from melo_core.structure import Kind
            from registry.api.traces import exported
            from registry.base.logging import configure_logging
            from serving.app import create_app
            from serving.engines.embedded import EmbeddedEngine, Loop
            from serving.router import Router
            from serving.versions import Versions
            from worker.model_cache import ModelCache

            configure_logging()
            model_cache = ModelCache(call.settings.cache, call.settings.dtype)
            versions = Versions(source, model_cache, name, digest, versions_mb << 20, blocks_mb << 20)
            engine = None
            if versions.base.kind is Kind.CAUSAL:
                engine = EmbeddedEngine(Loop(versions.base, rows=slots, prefix_bytes=prefix_mb << 20), waiting)
            app = create_app(call.settings, source, Router(versions, engine, exported("melo-serve")))
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,  # the application logs each request itself
            log_config=None,
            timeout_graceful_shutdown=int(call.settings.stop_seconds) + 2,  # after the streams' own grace
        )
        server = uvicorn.Server(config)
        try:
            listener = config.bind_socket()
        except SystemExit:
            raise CommandError(
                "The address cannot be used", f"{host}:{port} is taken, or not of this machine.", "Name another --port."
            ) from None
        address = f"http://{host}:{listener.getsockname()[1]}"
        call.err.print(f"Serving {name} at {address}/v1; try: curl {address}/v1/models", markup=False, highlight=False)
        server.run(sockets=[listener])


@contextmanager
def _source(call: Invocation, registry: str) -> "Iterator[Source]":
    """Open the registry's API, or its database if no URL is given. Raises CommandError where neither answers."""
    if registry:
        from serving.sources.http import HttpSource

        key = call.settings.api_key
        yield HttpSource(registry, key.get_secret_value() if key else None)
        return
    with record_of(call) as sessions:
        from serving.sources.database import DatabaseSource

        yield DatabaseSource(sessions.kw["bind"])


def _collections(call: Invocation, source: "Source") -> "list[CollectionView]":
    """Return the collections, once there is one. Torch is loaded only then."""
    says_so = False
    while not (found := source.collections()):
        if not says_so:
            says_so = True
            call.err.print("There is no collection yet. Make one: melo collection create NAME --model MODEL")
        time.sleep(POLL_SECONDS)
    return found
