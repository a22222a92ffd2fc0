"""Stops the processes that a killed supervisor left behind."""

import signal
from pathlib import Path

from embedded import postgres
from embedded.errors import StopFailed
from embedded.processes import Farewell, ProcessIdentity, stop
from embedded.state import StackState


def clear(home: Path, old: StackState | None) -> list[str]:
    """Stop the processes named in `old` that are still alive, and any PostgreSQL in the data folder.

    Returns their names. Raises StopFailed if one cannot be stopped.
    """
    names = []
    for record in reversed(old.processes if old else []):
        if record.identity is not None and record.identity.process() is not None:
            _end(record.name, record.identity)
            names.append(record.name)
    servers = postgres.processes_in(home)
    for identity in servers:  # the first one takes its children with it
        _end("postgres", identity)
    if servers and "postgres" not in names:
        names.append("postgres")
    return names


def _end(name: str, identity: ProcessIdentity) -> None:
    fast = signal.SIGINT if name == "postgres" else signal.SIGTERM
    if not stop(identity, [Farewell(fast, 30)]):
        raise StopFailed(
            f"{name} (pid {identity.pid}) of an earlier run does not stop.",
            f"Stop it by hand: kill -9 {identity.pid}",
        )
