"""The command `melo serve`."""

from typing import Annotated

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from serving.sources.opening import collections_in, opened


def register(app: typer.Typer) -> None:
    """Add the command. Raises ModuleNotFoundError where a dependency is not installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    from serving.vllm_config import vllm_config

    add_command(app, serve, "melo serve --port 8420", has_json=False)
    add_command(app, vllm_config, "melo vllm-config ./vllm", has_json=False)


def serve(
    call: Invocation,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen at. Default: MELO_SERVE_HOST, 127.0.0.1."),
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
    vllm: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A vLLM server with the plugin melo-vllm; for several, repeat it."),
    ] = None,
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
    with opened(call, registry or call.settings.serve_registry) as source:
        collections = collections_in(source, call)
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
            from serving.engines.port import Engine
            from serving.engines.vllm import vllm_engine
            from serving.router import Router
            from serving.versions import Versions
            from worker.conversion_line import line_on
            from worker.model_cache import ModelCache

            configure_logging()
            model_cache = ModelCache(call.settings.cache, call.settings.dtype, converting=line_on(call.err))
            budgets = versions_mb << 20, blocks_mb << 20
            versions = Versions(source, model_cache, name, digest, *budgets, with_weights=not vllm)
            engine: Engine | None = None
            if vllm:
                engine = vllm_engine(versions.base, name, vllm, call.settings, waiting)
            elif versions.base.kind is Kind.CAUSAL:
                engine = EmbeddedEngine(Loop(versions.base, rows=slots, prefix_bytes=prefix_mb << 20), waiting)
            app = create_app(call.settings, source, Router(versions, engine, exported("melo-serve")))
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            forwarded_allow_ips=call.settings.trusted_proxies,
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
