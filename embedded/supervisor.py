"""The process that starts the stack in order, restarts what dies, and stops everything in reverse order.

Run as `python -m embedded`; every other command communicates with it through signals and state.json.
"""

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import filelock
import psycopg
import psycopg.sql

from embedded import plan, postgres, programs, state, valkey
from embedded.errors import StartFailed, StopFailed
from embedded.leftovers import clear
from embedded.plan import Part
from embedded.processes import ProcessIdentity, spawn, stop, tail
from embedded.state import EXIT_LOCKED, Health, Phase, ProcessRecord, StackState
from registry.access.operator import OperatorKeys, make_key
from registry.audit.signing import made_key
from registry.base import database, probes
from registry.base.errors import UserError
from registry.base.retry import Restarts
from registry.base.settings import Settings

API_PORTS = range(8410, 8510)  # the first free one is taken
SERVE_PORTS = 100  # tried from the configured one on
POLL_SECONDS = 0.2
PROBE_SECONDS = 1.0  # between probes of a process that is not ready, while the stack is watched


class Asked(Exception):
    """The stack was asked to stop while it was starting."""


@dataclass
class Running:
    """A part together with its current process."""

    part: Part
    record: ProcessRecord
    child: subprocess.Popen[bytes] | None = None
    since: float = 0.0  # time.monotonic() of its last start
    probe_due: float = 0.0  # time.monotonic()
    restarts: Restarts = field(default_factory=Restarts)


@dataclass
class Supervisor:
    """The owner of one MELO_HOME for as long as it lives."""

    home: Path
    settings: Settings
    with_worker: bool
    with_api: bool
    with_serve: bool
    port: int | None  # of the API; None: the first of API_PORTS that is free
    tied: bool  # stop together with the process that started this one
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = StackState(supervisor=ProcessIdentity.of(os.getpid()))
        self._asked = False
        self._listener: socket.socket | None = None
        self._parent = os.getppid()

    def run(self) -> int:
        """Start the stack, watch it until asked to stop, and stop it. Returns the exit status."""
        lock = filelock.FileLock(state.lock_file(self.home))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return EXIT_LOCKED
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)
        try:
            self._clear_leftovers()
            self._start()
            self._watch()
        except Asked:
            pass
        except UserError as error:
            self._stop()
            self.state.error, self.state.remedy = error.detail, error.remedy
            self._enter(Phase.FAILED)
            return 1
        except Exception as error:
            self._stop()
            self.state.error = f"{type(error).__name__}: {error}"
            self.state.remedy = f"The log {state.log_file(self.home, 'supervisor')} says where."
            self._enter(Phase.FAILED)
            raise
        try:
            self._stop()
        except StopFailed as error:
            self.state.error, self.state.remedy = error.detail, error.remedy
            self._enter(Phase.FAILED)
            return 1
        state.state_file(self.home).unlink(missing_ok=True)
        return 0

    # Starting

    def _start(self) -> None:
        make_key(self.home)
        OperatorKeys.of(self.settings)  # a weak one is refused before anything runs
        self._listener = listen(API_PORTS if self.port is None else range(self.port, self.port + 1))
        api_port = self._listener.getsockname()[1]
        if self.port is None and self.with_api:
            self._note_taken(API_PORTS.start, api_port, "the API", "`--port`")
        api_url = f"http://127.0.0.1:{api_port}"
        database_url = self.settings.database_url or self._start_postgres()
        redis_url = self.settings.redis_url or self._start_valkey()
        self._expect("the database", lambda: probes.of_postgres(database_url))
        self._expect("the broker", lambda: probes.of_broker(redis_url))
        self.state.database_url, self.state.redis_url = database_url, redis_url

        if not (self.settings.signer or self.settings.signing_key):
            made_key(self.home)  # before the first event, so that all are signed
        self._say("migrating the database")
        database.upgrade(database_url)
        engine = database.make_engine(database_url)
        self.state.schema_revision = database.schema_state(engine).revision
        engine.dispose()

        environment = plan.own_parts_environment(self.home, database_url, redis_url, api_url)
        parts = []
        if self.with_worker and programs.worker_is_installed():
            parts.append(plan.worker_part(environment, self.settings.stop_seconds))
        elif self.with_worker:
            self.state.notes.append(
                "No worker: torch is not installed, so approved batches wait. "
                "Install it with: pip install 'melo-registry[worker]'"
            )
        if self.with_api or parts:
            parts.append(plan.relay_part(environment))
        if self.with_api:
            parts.append(plan.api_part(environment, self._listener.fileno()))
            self.state.api_url = api_url
        self._await_ready(*[self._launch(part) for part in parts])  # in parallel: each takes long to import
        if self.with_serve and programs.worker_is_installed():
            self.state.serve_url = serve_url(self.settings.serve_host, self.settings.serve_port)
            port = urlsplit(self.state.serve_url).port or 0
            self._note_taken(self.settings.serve_port, port, "the server for OpenAI clients", "MELO_SERVE_PORT")
            self._launch(plan.serve_part(environment, self.state.serve_url, self.settings.stop_seconds))
        self._say("")
        self._enter(Phase.READY)

    def _note_taken(self, wanted: int, found: int, what: str, choice: str) -> None:
        if wanted and found != wanted:
            self.state.notes.append(f"Port {wanted} is taken: {what} is at port {found}. {choice} chooses another.")

    def _start_postgres(self) -> str:
        self._say("preparing the database's folder")
        server = postgres.prepare(self.home)
        self._await_ready(self._launch(plan.postgres_part(server)))
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [postgres.DATABASE])
            if known.fetchone() is None:
                name = psycopg.sql.Identifier(postgres.DATABASE)
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(name))
        return server.url()

    def _start_valkey(self) -> str:
        server = valkey.prepare(self.home)
        self._await_ready(self._launch(plan.valkey_part(server)))
        return server.url

    def _launch(self, part: Part) -> Running:
        log = state.log_file(self.home, part.name)
        record = ProcessRecord(name=part.name, identity=None, health=Health.STARTING, log=log)
        running = Running(part=part, record=record)
        self.running.append(running)
        self.state.processes.append(record)
        self._spawn(running)
        return running

    def _spawn(self, running: Running) -> None:
        part, record = running.part, running.record
        running.child = spawn(
            part.command,
            environment=part.environment,
            log=record.log,
            account=part.account,
            cwd=part.cwd,
            inherit=part.inherit,
        )
        running.since = time.monotonic()
        record.identity = ProcessIdentity.of(running.child.pid)
        record.health = Health.STARTING
        self._write()

    def _await_ready(self, *started: Running) -> None:
        waiting = list(started)
        while waiting:
            self._say(f"starting {', '.join(running.part.name for running in waiting)}")
            waiting = [running for running in waiting if not self._has_come_up(running)]
            if waiting:
                time.sleep(POLL_SECONDS)

    def _has_come_up(self, running: Running) -> bool:
        self._raise_if_asked()
        part, log = running.part, running.record.log
        if running.child is not None and running.child.poll() is not None:
            raise StartFailed(
                f"{part.name} ended at once, with status {running.child.returncode}. The end of {log}:\n{tail(log)}"
            )
        try:
            part.probe()
        except probes.ProbeFailed as reason:
            if time.monotonic() - running.since < part.patience_seconds:
                return False
            raise StartFailed(
                f"{part.name} was not ready after {part.patience_seconds:.0f} s: {reason}. "
                f"The end of {log}:\n{tail(log)}"
            ) from None
        running.record.health = Health.READY
        return True

    def _expect(self, what: str, probe: Callable[[], None]) -> None:
        """Require that one of the user's own servers answers before anything is built on it."""
        try:
            probe()
        except probes.ProbeFailed as reason:
            raise StartFailed(
                f"{what.capitalize()} was not reached: {reason}.",
                "Check MELO_DATABASE_URL and MELO_REDIS_URL, or unset them to use the embedded servers.",
            ) from None

    # Watching

    def _watch(self) -> None:
        while True:
            self._raise_if_asked()
            for running in self.running:
                self._look_after(running)
            time.sleep(POLL_SECONDS)

    def _look_after(self, running: Running) -> None:
        if running.child is None:
            if time.monotonic() >= running.restarts.due:
                self._spawn(running)
            return
        status = running.child.poll()
        if status is not None:
            running.restarts.died(running.since)
            running.child = None
            record = running.record
            record.identity, record.last_exit, record.health = None, status, Health.RESTARTING
            record.restarts += 1
            self._write()
        elif running.record.health is Health.STARTING and time.monotonic() >= running.probe_due:
            try:
                running.part.probe()
            except probes.ProbeFailed:
                running.probe_due = time.monotonic() + PROBE_SECONDS
                return
            running.record.health = Health.READY
            self._write()

    # Stopping

    def _stop(self) -> None:
        """Stop every process, the last started first. Raises StopFailed naming what is left."""
        self._enter(Phase.STOPPING)
        left = []
        for running in reversed(self.running):
            identity = running.record.identity
            if identity is not None and not stop(identity, running.part.farewells):
                left.append(f"{running.part.name} (pid {identity.pid})")
            if running.child is not None:
                running.child.poll()  # so that no zombie remains
            running.record.identity, running.record.health = None, Health.STOPPED
            self._write()
        if self._listener is not None:
            self._listener.close()
        if left:
            raise StopFailed(f"Still running after SIGKILL: {', '.join(left)}.", "See why with: ps -fp PID")

    def _clear_leftovers(self) -> None:
        """Stop what an earlier supervisor left behind when it was killed."""
        clear(self.home, state.read(self.home))
        self._write()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _raise_if_asked(self) -> None:
        orphaned = self.tied and os.getppid() != self._parent
        if self._asked or orphaned:
            raise Asked

    def _enter(self, phase: Phase) -> None:
        self.state.phase = phase
        self._write()

    def _say(self, doing: str) -> None:
        self.state.doing = doing
        self._write()

    def _write(self) -> None:
        state.write(self.home, self.state)


def serve_url(host: str, port: int) -> str:
    """Return the server's address: at the configured port, else at the next one that is free; 0: at any free one.

    The port is not held: a socket that listens would let clients wait while there is no collection to serve.
    """
    with listen(range(port, min(port + SERVE_PORTS, 65536)) if port else range(1)) as listener:
        found = listener.getsockname()[1]
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{found}"


def listen(ports: range) -> socket.socket:
    """Open a listening loopback socket on the first free port.

    The supervisor holds the socket and the API inherits it: no other program can take the port between the choice and
    the start, or while the API restarts.
    """
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise StartFailed(
                    f"Port {port} on 127.0.0.1 cannot be listened at: {error.strerror}.", "Choose another with --port."
                ) from None
    if len(ports) == 1:
        raise StartFailed(
            f"Port {ports.start} on 127.0.0.1 is taken by another program.",
            "Stop what listens there, or choose another with --port.",
        )
    raise StartFailed(
        f"No port from {ports.start} to {ports.stop - 1} is free on 127.0.0.1.",
        "Stop a program that listens there.",
    )
