"""The stack of the bench: PostgreSQL, Valkey, the relay and workers, each of which may be killed and restarted."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.queue.workers import BenchBroken, ForkServer
from embedded import plan, postgres, valkey
from embedded.plan import Part
from embedded.processes import ProcessIdentity, spawn, stop, tail
from registry.base import probes
from registry.base.database import make_engine, make_sessions, upgrade
from registry.relay import Message, make_send

POLL_SECONDS = 0.05
# Short, so that the jobs of a killed process are taken over within seconds.
HASTE: Mapping[str, float] = {
    "lease_seconds": 2,
    "resend_seconds": 2,
    "relay_poll_seconds": 0.1,
    "retry_seconds": 0.2,
    "stop_seconds": 1,
}


@dataclass
class Program:
    """A program of the stack."""

    part: Part
    log: Path
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program and wait until it works."""
        self.child = spawn(
            self.part.command,
            environment=self.part.environment,
            log=self.log,
            account=self.part.account,
            cwd=self.part.cwd,
            inherit=self.part.inherit,
        )
        until = time.monotonic() + self.part.patience_seconds
        while True:
            try:
                return self.part.probe()
            except probes.ProbeFailed as reason:
                if time.monotonic() > until or self.child.poll() is not None:
                    raise BenchBroken(f"{self.part.name}: {reason}. Its log ends:\n{tail(self.log)}") from None
            time.sleep(POLL_SECONDS)

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()

    def end(self) -> None:
        if self.child is not None and self.alive:
            stop(ProcessIdentity.of(self.child.pid), self.part.farewells)
            self.child.wait()


@dataclass
class Stack:
    """The running stack, with ways to break and restart it. All of it lies in one folder."""

    folder: Path
    haste: Mapping[str, float] = field(default_factory=lambda: HASTE)

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        """Run everything but workers, until the context ends, even by an error."""
        with ExitStack() as ending:
            server, broker = postgres.prepare(self.folder), valkey.prepare(self.folder)
            self._broker = broker
            self.postgres = self._program(plan.postgres_part(server), ending)
            self.valkey = self._program(plan.valkey_part(broker), ending)
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(postgres.DATABASE)))
            self.database_url, self.redis_url = server.url(), broker.url
            upgrade(self.database_url)
            engine = make_engine(self.database_url, 0)
            ending.callback(engine.dispose)
            self.sessions: sessionmaker[Session] = make_sessions(engine)
            self.relay = self._program(plan.relay_part(self._environment()), ending)
            self.fork_server = ForkServer(self.folder, self._environment(), self.haste.get("lease_seconds", 0) + 1)
            ending.callback(self.fork_server.end)
            self._send = make_send(self.redis_url)
            yield self

    def _program(self, part: Part, ending: ExitStack) -> Program:
        program = Program(part, self.folder / f"{part.name}.log")
        ending.callback(program.end)
        program.start()
        return program

    def _environment(self) -> dict[str, str]:
        """Return the environment without the user's settings for their own stack."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("MELO_")}
        own = {name: str(value) for name, value in self.haste.items()} | {
            "home": str(self.folder),
            "cache": str(self.folder / "cache"),
            "database_url": self.database_url,
            "redis_url": self.redis_url,
        }
        return {
            **others,
            **{f"MELO_{name.upper()}": value for name, value in own.items()},
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }

    # Faults

    def restart_postgres(self) -> None:
        """Kill PostgreSQL with SIGKILL, as in a power failure, and restart it; it recovers from its log."""
        self.postgres.kill()
        until = time.monotonic() + 20
        while left := postgres.processes_in(self.folder):  # its children end when they notice that it is gone
            if time.monotonic() > until:
                raise BenchBroken(f"After PostgreSQL was killed, {len(left)} of its processes stay.")
            time.sleep(POLL_SECONDS)
        self.postgres.start()

    def lose_broker(self) -> None:
        """Kill the broker with SIGKILL, and restart it without its data."""
        self.valkey.kill()
        shutil.rmtree(self._broker.settings.parent / "appendonlydir", ignore_errors=True)
        self.valkey.start()

    def restart_relay(self) -> None:
        self.relay.kill()
        self.relay.start()

    def send_again(self, messages: Iterable[Message]) -> None:
        """Send messages to the broker, bypassing the relay."""
        for message in messages:
            self._send(message)
