"""Processes that outlive the program that watches them: their identity, start and end."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel

# Start times are relative to the boot time, which shifts slightly when the clock is adjusted.
SAME_START_SECONDS = 2.0


class ProcessIdentity(BaseModel):
    """A pid together with its start time, because the system reuses pids."""

    pid: int
    started: float  # seconds since the epoch

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        return cls(pid=pid, started=psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Return the live process, or None if it has ended (a zombie has ended)."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) > SAME_START_SECONDS:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class Account:
    """The system user that runs a server."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    account: Account | None = None,
    cwd: Path | None = None,
    inherit: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to `log`.

    It gets its own session: Ctrl-C in the terminal reaches only the supervisor, which then stops each process in turn.
    inherit: file descriptors that the process keeps open.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=cwd,
            pass_fds=inherit,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


@dataclass(frozen=True)
class Farewell:
    """A signal, and how long the process has to react before the next, stronger one."""

    signal: signal.Signals
    seconds: float


def stop(identity: ProcessIdentity, farewells: Sequence[Farewell]) -> bool:
    """Stop a process with increasingly forceful signals, ending with SIGKILL for its whole session.

    Returns whether the process is gone.
    """
    process = identity.process()
    if process is None:
        return True
    for farewell in farewells:
        _send(process, farewell.signal)
        if _wait(identity, farewell.seconds):
            return True
    try:
        os.killpg(identity.pid, signal.SIGKILL)  # spawn() made the process the leader of its group
    except ProcessLookupError:
        _send(process, signal.SIGKILL)
    return _wait(identity, 5)


def _send(process: psutil.Process, signal_number: signal.Signals) -> None:
    try:
        process.send_signal(signal_number)
    except psutil.NoSuchProcess:
        return


def _wait(identity: ProcessIdentity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while identity.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 8192))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
