"""The client of the fork server: starts workers and records how they ended."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.queue.orders import Order
from embedded.processes import spawn, tail

PATIENCE_SECONDS = 120  # importing torch from a cold disk


class BenchBroken(Exception):
    """The bench itself cannot continue; the message says why."""


@dataclass
class Child:
    """A process that the fork server forked."""

    pid: int
    log: Path
    orders: Sequence[Order] = ()
    status: int | None = None  # how it ended: a negative number is the signal that killed it

    @property
    def alive(self) -> bool:
        return self.status is None

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)  # at worst a zombie's: the fork server reaps it and reports its end

    def carried_out(self) -> list[Order]:
        """Return those of its orders that it reached."""
        said = self.log.read_text("utf-8", errors="replace")
        return [order for order in self.orders if order.trace in said]


@dataclass
class ForkServer:
    """Forks workers; `look` learns which of them have ended."""

    folder: Path
    environment: Mapping[str, str]  # of the workers
    freeze_seconds: float  # for which a frozen worker stays frozen
    children: dict[int, Child] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self._pending = b""
        self._log = self.folder / "fork_server.log"
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = spawn(
                [sys.executable, "-m", "benchmarks.queue.fork_server", str(theirs.fileno()), str(self.freeze_seconds)],
                environment={**os.environ, **self.environment},
                log=self._log,
                inherit=[theirs.fileno()],
            )
        self._await("ready")

    def worker(self, *orders: Order, transport: Mapping[str, float] | None = None, held: bool = False) -> Child:
        """Fork a worker.

        transport: options of the broker's transport that differ from the defaults. held: once frozen, it waits for a
        SIGCONT.
        """
        told = [order.to_json() for order in orders]
        child = self._start("worker", {"task": "work", "orders": told, "transport": transport or {}, "held": held})
        child.orders = orders
        return child

    def bare(self, **wish: Any) -> Child:
        return self._start("bare", {"task": "bare", **wish})

    def look(self, seconds: float = 0) -> None:
        """Read the fork server's reports, waiting at most this long for them."""
        if select.select([self._line], [], [], seconds)[0]:
            self._read()

    def wait(self, child: Child, seconds: float) -> bool:
        """Wait for a child; return whether it has ended in that time."""
        until = time.monotonic() + seconds
        while child.alive and (left := until - time.monotonic()) > 0:
            self.look(left)
        return not child.alive

    def end(self) -> None:
        """End the fork server and its children."""
        self._line.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self, name: str, wish: dict[str, Any]) -> Child:
        log = self.folder / f"{name}-{next(self._numbers)}.log"
        log.touch(mode=0o600)
        wish |= {"log": str(log), "environment": dict(self.environment)}
        self._line.sendall(json.dumps(wish).encode() + b"\n")
        child = Child(self._await("started"), log)
        self.children[child.pid] = child
        return child

    def _await(self, word: str) -> int:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if not select.select([self._line], [], [], 1)[0]:
                continue
            if word in (said := self._read()):
                return said[word]
        raise BenchBroken(f"The fork_server does not answer. The end of {self._log}:\n{tail(self._log)}")

    def _read(self) -> dict[str, int]:
        """Read all reports and return the last one of each word; ends are noted at once."""
        got = self._line.recv(1 << 16)
        if not got:
            raise BenchBroken(f"The fork_server has ended. The end of {self._log}:\n{tail(self._log)}")
        *lines, self._pending = (self._pending + got).split(b"\n")
        said: dict[str, int] = {}
        for line in lines:
            word = json.loads(line)
            if (ended := word.get("ended")) in self.children:
                self.children[ended].status = word["status"]
            said |= word
        return said
