"""`melo up`, `down`, `status`, `migrate`, `health`: operation of the servers."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.show import duration, fields, table

if TYPE_CHECKING:
    from embedded.state import StackState, UpSettings

POLL_SECONDS = 0.5


class Service(StrEnum):
    API = "api"
    RELAY = "relay"
    WORKER = "worker"
    SERVE = "serve"


def register(app: typer.Typer) -> None:
    add_command(app, up, "melo up --detach --port 8410", has_json=False)
    add_command(app, down, "melo down", has_json=False)
    add_command(app, status, "melo status --json")
    add_command(app, migrate, "MELO_DATABASE_URL=postgresql://melo@db/melo melo migrate", has_json=False)
    add_command(app, health, "melo health worker   (the health check of a container)", has_json=False)


def up(
    call: Invocation,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is ready.")] = False,
    worker: Annotated[
        bool | None, typer.Option("--worker/--no-worker", help="Start a worker, which trains and applies.")
    ] = None,
    serve: Annotated[
        bool | None,
        typer.Option("--serve/--no-serve", help="Start the server that applications ask: `melo serve`."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the API; 0: the first from 8410 on that is free, as by default."),
    ] = None,
) -> None:
    """Start PostgreSQL, Valkey, the API, the relay, a worker and the server in MELO_HOME; Ctrl-C stops them.

    The server answers once there is a collection; `melo status` shows whether it does. Options that are given are kept
    in MELO_HOME, and hold for the next `melo up` too.
    With MELO_DATABASE_URL or MELO_REDIS_URL set, that server is used instead of the embedded one.
    """
    from embedded import stack, state

    running = call.stack
    home = state.prepare(call.home)
    settings = _up_settings(home, worker=worker, serve=serve, port=port)
    if running is not None:
        call.out.print(f"It is {running.phase.value} already.")
        if (worker, serve, port) != (None, None, None):
            call.out.print("What was given holds from the next `melo up` on.")
        _where(call, running)
        return
    if (worker, serve, port) == (None, None, None) and settings != state.UpSettings():
        call.say(f"As given before: melo up {_flags(settings)}")
    with _interrupts():
        with call.err.status("starting") as spinner:
            started = stack.start(
                call.home,
                worker=settings.worker,
                serve=settings.serve,
                port=settings.port,
                tied=not detach,
                watch=lambda state: spinner.update(state.doing or "starting"),
            )
        if detach:
            _where(call, started)
            return
        try:
            _where(call, started)
            call.out.print("Ctrl-C stops it; nothing is lost.", style="dim")
            _attend(call, started)
        except KeyboardInterrupt:
            call.err.print()
        finally:
            _stop(call)


def _up_settings(home: Path, *, worker: bool | None, serve: bool | None, port: int | None) -> "UpSettings":
    """Return what to start: what is given, else what was given before; and keep it."""
    from embedded import state

    before = state.remembered(home)
    settings = state.UpSettings(
        worker=before.worker if worker is None else worker,
        serve=before.serve if serve is None else serve,
        port=before.port if port is None else port or None,
    )
    if settings != before:
        state.remember(home, settings)
    return settings


def _flags(settings: "UpSettings") -> str:
    port = f"--port {settings.port}" if settings.port else ""
    flags = ("" if settings.worker else "--no-worker", "" if settings.serve else "--no-serve", port)
    return " ".join(filter(None, flags))


def down(call: Invocation) -> None:
    """Stop everything that runs in MELO_HOME; all data is kept."""
    if not _stop(call):
        call.out.print(Text(f"Nothing runs in {call.home}."))


def status(call: Invocation) -> None:
    """Show what runs, since when and how well; status 1 where nothing runs."""
    from cli.health import local_status, remote_status

    found = remote_status(call, call.named_api) if call.named_api else local_status(call)
    call.emit(found, lambda: _show_status(call, found))
    if not found["running"]:
        raise typer.Exit(1)


def migrate(call: Invocation) -> None:
    """Upgrade the database to this program's schema."""
    from registry.base import database
    from registry.base.database import UNREACHABLE
    from registry.base.database_errors import explained

    url = call.database_url()
    engine = database.make_engine(url)
    try:
        before = database.schema_state(engine).revision
        with call.err.status("migrating"):
            database.upgrade(url)
        after = database.schema_state(engine).revision
    except UNREACHABLE as error:
        raise explained(error) from None
    finally:
        engine.dispose()
    if before == after:
        call.out.print(f"The schema is at {after} already.")
    else:
        call.out.print(f"The schema went from {before or 'nothing'} to {after}.")


def health(
    call: Invocation,
    service: Annotated[Service, typer.Argument(metavar="SERVICE", help="api, relay, worker or serve.")],
) -> None:
    """Exit with status 0 if a service on this machine is healthy."""
    from registry.base import probes

    probe: dict[Service, Callable[[], None]] = {
        Service.API: lambda: probes.of_api(call.client.api_url),
        Service.RELAY: lambda: probes.of_relay(call.database_url()),
        Service.WORKER: lambda: probes.of_worker(call.database_url(), host=socket.gethostname()),
        Service.SERVE: lambda: probes.of_serving(f"http://127.0.0.1:{call.settings.serve_port}"),
    }
    try:
        probe[service]()
    except probes.ProbeFailed as reason:
        raise CommandError(f"The {service.value} is not healthy", f"{reason}.") from None


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let a closed terminal or a service manager's stop end `up` as Ctrl-C does; nohup keeps its effect."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    asked = [signal.SIGINT, signal.SIGTERM]  # a script's background job has SIGINT ignored, but needs it here
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _attend(call: Invocation, seen: "StackState") -> None:
    """Print changes until somebody interrupts."""
    from embedded import stack
    from embedded.state import Health, Phase

    restarts = {record.name: record.restarts for record in seen.processes}
    while (state := stack.find(call.home)) is not None and state.phase is Phase.READY:
        for record in state.processes:
            if record.restarts > restarts[record.name] and record.health is Health.RESTARTING:
                restarts[record.name] = record.restarts
                text = f"{record.name} ended with status {record.last_exit}; it is started again"
                call.err.print(Text(text, style="yellow"))
        time.sleep(POLL_SECONDS)
    if state is None:
        call.out.print("It was stopped from elsewhere.")


def _stop(call: Invocation) -> bool:
    from embedded import stack
    from embedded.state import Health

    with call.err.status("stopping") as spinner:

        def watch(state: "StackState") -> None:
            left = [record.name for record in state.processes if record.health is not Health.STOPPED]
            spinner.update(f"stopping {', '.join(reversed(left))}" if left else "stopping")

        names = stack.stop(call.home, watch=watch)
    if names:
        call.out.print(f"Stopped {', '.join(reversed(names))}.")
    return bool(names)


def _where(call: Invocation, state: "StackState") -> None:
    from registry.access.operator import FILE

    fields(
        call.out,
        [
            ("API", state.api_url),
            ("its documentation", state.api_url and f"{state.api_url}/docs"),
            ("server for OpenAI clients", state.serve_url and f"{state.serve_url}/v1"),
            ("key, which melo sends", call.home / FILE),
            ("database", _without_password(state.database_url)),
            ("folder", call.home),
            ("logs", call.home / "logs"),
        ],
    )
    for note in state.notes:
        call.out.print(Text(note, style="yellow"))


def _without_password(url: str | None) -> str | None:
    from registry.base.addresses import without_password

    return without_password(url) if url else None


def _show_status(call: Invocation, found: dict[str, Any]) -> None:
    if not found["running"]:
        call.out.print(f"Nothing runs in {call.home}. Start it with `melo up`.")
        return
    pairs: list[tuple[str, object]] = [
        (name, found.get(name))
        for name in ("phase", "api_url", "serve_url", "home", "schema", "health")
        if name in found
    ]
    schema = found.get("schema")
    if schema:
        current = schema["revision"] == schema["head"]
        shown = schema["revision"] if current else f"{schema['revision']}, but this program needs {schema['head']}"
        pairs = [("schema", shown) if name == "schema" else (name, value) for name, value in pairs]
    if found.get("queue"):
        pairs.append(("queue", ", ".join(f"{count} {name}" for name, count in found["queue"].items())))
    fields(call.out, pairs)
    if found.get("processes"):
        rows = [
            [each["name"], each["health"], each["pid"],
             duration(each["uptime_seconds"]) if each["uptime_seconds"] is not None else None,
             each["restarts"], each["log"]]
            for each in found["processes"]
        ]  # fmt: skip
        table(call.out, ["process", "health", "pid#", "uptime", "restarts#", "log"], rows, empty="")
    if found.get("collections"):
        waiting = [
            [each["collection"], each["queue"], each["queued"], each["running"],
             duration(each["oldest_seconds"]) if each["queued"] else None]
            for each in found["collections"]
        ]  # fmt: skip
        table(call.out, ["collection", "queue", "queued#", "running#", "oldest"], waiting, empty="")
    unknown = found.get("workers_unknown")
    workers = [
        [each["worker"], each["device"], "alive" if each["alive"] else "silent",
         datetime.fromisoformat(each["seen_at"])]
        for each in found.get("workers", [])
    ]  # fmt: skip
    table(
        call.out,
        ["worker", "device", "", "seen"],
        workers,
        empty=f"Workers are not shown: {unknown}" if unknown else "No worker was seen: approved batches wait.",
    )
