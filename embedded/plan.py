"""The processes that make up the stack, in the order in which they start."""

import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from embedded.postgres import Postgres
from embedded.processes import Account, Farewell
from embedded.valkey import Valkey
from registry.base import probes


@dataclass(frozen=True)
class Part:
    """A process of the stack: how to start it, how to tell that it is ready, and how to ask it to stop."""

    name: str
    command: list[str]
    probe: Callable[[], None]  # raises probes.ProbeFailed until the process is ready
    patience_seconds: float  # how long it may take to become ready
    farewells: list[Farewell]
    environment: dict[str, str] = field(default_factory=dict)
    account: Account | None = None
    cwd: Path | None = None
    inherit: list[int] = field(default_factory=list)  # file descriptors that the process keeps open


def postgres_part(server: Postgres) -> Part:
    return Part(
        name="postgres",
        command=server.command,
        probe=lambda: probes.of_postgres(server.url("postgres")),
        patience_seconds=120,  # it may first have to recover from a power loss
        # SIGINT is the fast shutdown: it closes sessions and writes the data. SIGQUIT leaves
        # writing to the recovery at the next start.
        farewells=[Farewell(signal.SIGINT, 60), Farewell(signal.SIGQUIT, 10)],
        environment=_own_environment(),
        account=server.account,
        cwd=server.folder,
    )


def valkey_part(server: Valkey) -> Part:
    return Part(
        name="valkey",
        command=server.command,
        probe=lambda: probes.of_broker(server.url),
        patience_seconds=60,
        farewells=[Farewell(signal.SIGTERM, 20)],
        environment=_own_environment(),
        cwd=server.settings.parent,
    )


def relay_part(environment: dict[str, str]) -> Part:
    return Part(
        name="relay",
        command=[sys.executable, "-m", "registry.relay"],
        probe=lambda: probes.of_relay(environment["MELO_DATABASE_URL"]),
        patience_seconds=60,
        farewells=[Farewell(signal.SIGTERM, 10)],
        environment=environment,
    )


def worker_part(environment: dict[str, str], stop_seconds: float) -> Part:
    """Describe the worker.

    stop_seconds: how long the worker may continue its job after it is told to stop.
    """
    return Part(
        name="worker",
        command=[sys.executable, "-m", "worker"],
        probe=lambda: probes.of_worker(
            environment["MELO_DATABASE_URL"], within_seconds=4, host=f"{socket.gethostname()}/"
        ),
        patience_seconds=180,  # importing torch from a cold disk is slow
        # An interrupted job loses nothing: its lease runs out and it is sent again.
        farewells=[Farewell(signal.SIGTERM, stop_seconds + 5), Farewell(signal.SIGTERM, 5)],  # the second: at once
        environment=_beside_the_relay(environment),
    )


def api_part(environment: dict[str, str], listener: int) -> Part:
    return Part(
        name="api",
        command=[sys.executable, "-m", "embedded.serve", str(listener)],
        inherit=[listener],
        probe=lambda: probes.of_api(environment["MELO_API_URL"]),
        patience_seconds=60,
        farewells=[Farewell(signal.SIGTERM, 10)],
        environment=environment,
    )


def serve_part(environment: dict[str, str], url: str, stop_seconds: float) -> Part:
    """Describe the server that applications ask. It waits for the first collection, so nothing waits for it.

    stop_seconds: how long it may go on with the answers that it has begun.
    """
    return Part(
        name="serve",
        command=[sys.executable, "-m", "serving"],
        probe=lambda: probes.of_serving(url),
        patience_seconds=math.inf,
        farewells=[Farewell(signal.SIGTERM, stop_seconds + 5), Farewell(signal.SIGTERM, 5)],
        environment=environment | {"MELO_SERVE_PORT": str(urlsplit(url).port)},
    )


def own_parts_environment(home: Path, database_url: str, redis_url: str, api_url: str) -> dict[str, str]:
    """Return what the project's own processes get in their environment, besides what the user has set."""
    return {
        **os.environ,
        "MELO_HOME": str(home),
        "MELO_DATABASE_URL": database_url,
        "MELO_REDIS_URL": redis_url,
        "MELO_API_URL": api_url,
        "PYTHONIOENCODING": "utf-8",  # whatever the terminal's is that they were started from
        "PYTHONUNBUFFERED": "1",  # so that the logs are up to date
    }


def _beside_the_relay(environment: dict[str, str]) -> dict[str, str]:
    """Return the worker's environment: the relay shows metrics on the configured port, the worker on the next one."""
    port = environment.get("MELO_METRICS_PORT", "")
    # The relay rejects anything that is not a number, and with 0 each process takes a free port.
    return environment | {"MELO_METRICS_PORT": str(int(port) + 1)} if port.isdecimal() and int(port) else environment


def _own_environment() -> dict[str, str]:
    """Return the environment of third-party servers: no PG* variable may change their settings, no MELO_* may leak."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "TZ", "TMPDIR")}
