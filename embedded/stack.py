"""Starts, finds and stops the stack of a MELO_HOME from another program: the CLI, the demo, a test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from embedded import state
from embedded.errors import AlreadyRunning, StartFailed
from embedded.leftovers import clear
from embedded.processes import spawn, tail
from embedded.state import EXIT_LOCKED, Phase, StackState
from registry.access.operator import stored_key

POLL_SECONDS = 0.1


def find(home: Path) -> StackState | None:
    """Return the stack that runs in this MELO_HOME, even one that is starting or stopping, or None if there is none."""
    found = state.read(home.expanduser().resolve())
    return found if found is not None and found.is_alive else None


def start(
    home: Path,
    *,
    worker: bool = True,
    api: bool = True,
    serve: bool = False,
    port: int | None = None,
    tied: bool = False,
    watch: Callable[[StackState], None] = lambda _: None,
) -> StackState:
    """Start the stack and return once all of it answers.

    serve: also the server that applications ask; it loads its model later, so the start does not wait for it.
    port: of the API; None: the first one from 8410 on that is free.
    tied: the stack ends together with this process. watch: called with every new state on the way.
    Raises AlreadyRunning, StartFailed or UnusableHome. An interrupt (Ctrl-C) undoes the start.
    """
    home = state.prepare(home)
    if find(home) is not None:
        raise AlreadyRunning(f"The stack in {home} is already running.", "See it with `melo status`.")
    command = [sys.executable, "-m", "embedded", str(home)]
    switches = {"--no-worker": not worker, "--no-api": not api, "--serve": serve, "--tied": tied}
    if port is not None:
        command += ["--port", str(port)]
    log = state.log_file(home, "supervisor")
    supervisor = spawn([*command, *(name for name, on in switches.items() if on)], environment=os.environ, log=log)
    try:
        return _await_start(home, supervisor, watch)
    except BaseException:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait()
        raise


def stop(home: Path, *, watch: Callable[[StackState], None] = lambda _: None) -> list[str]:
    """Stop the stack, or what a killed one left behind. Returns the names of what was stopped."""
    home = home.expanduser().resolve()
    found = find(home)
    if not home.exists():
        return []
    if found is None:
        with filelock.FileLock(state.lock_file(home), timeout=10):
            names = clear(home, state.read(home))
            state.state_file(home).unlink(missing_ok=True)
        return names
    names = [record.name for record in found.processes]
    process = found.supervisor.process()
    if process is not None:
        process.send_signal(signal.SIGTERM)
    while found.is_alive:
        found = state.read(home) or found
        watch(found)
        time.sleep(POLL_SECONDS)
    clear(home, state.read(home))  # no effect unless the supervisor was killed meanwhile
    return names


@dataclass(frozen=True)
class Stack:
    """The addresses of the parts of a running stack, and the key that they take."""

    home: Path
    api_url: str
    api_key: str = field(repr=False)
    database_url: str
    redis_url: str


@contextmanager
def running(
    home: Path,
    *,
    worker: bool = True,
    api: bool = True,
    watch: Callable[[StackState], None] = lambda _: None,
) -> Iterator[Stack]:
    """Run the stack for the duration of a `with` block; it ends with this process at the latest."""
    started = start(home, worker=worker, api=api, tied=True, watch=watch)
    try:
        yield Stack(
            home=home.expanduser().resolve(),
            api_url=started.api_url or "",
            api_key=stored_key(home.expanduser()) or "",
            database_url=started.database_url or "",
            redis_url=started.redis_url or "",
        )
    finally:
        stop(home)


def _await_start(home: Path, supervisor: subprocess.Popen[bytes], watch: Callable[[StackState], None]) -> StackState:
    while True:
        status = supervisor.poll()
        seen = state.read(home)
        if seen is not None and seen.supervisor.pid == supervisor.pid:
            watch(seen)
            if seen.phase is Phase.READY:
                return seen
            if seen.phase is Phase.FAILED:
                supervisor.wait()
                raise StartFailed(seen.error, seen.remedy)
        if status == EXIT_LOCKED:
            raise AlreadyRunning(f"Another start in {home} came first.", "See it with `melo status`.")
        if status is not None:
            log = state.log_file(home, "supervisor")
            raise StartFailed(f"The supervisor ended with status {status}. The end of {log}:\n{tail(log)}")
        time.sleep(POLL_SECONDS)
