"""Valkey, the broker, as a child process: its settings, its command line, its address."""

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from embedded import programs


@dataclass(frozen=True)
class Valkey:
    """A server on a loopback port, with a password because loopback is open to every user of the machine."""

    settings: Path
    port: int
    password: str

    @property
    def command(self) -> list[str]:
        return [str(programs.valkey_server()), str(self.settings)]

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


def prepare(home: Path) -> Valkey:
    """Write the settings, with a port that is currently free and a new password."""
    folder = home / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    port, password = free_port(), secrets.token_urlsafe(32)
    settings = folder / "valkey.conf"
    with open(os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(
            "bind 127.0.0.1\n"
            f"port {port}\n"
            f"requirepass {password}\n"
            "protected-mode yes\n"
            f"dir {_quoted(folder)}\n"
            "appendonly yes\n"
            'save ""\n'
            # When memory is full, messages must be refused: dropping some would lose jobs silently.
            "maxmemory-policy noeviction\n"
            "daemonize no\n"
        )
    return Valkey(settings=settings, port=port, password=password)


def free_port() -> int:
    """Return a loopback port on which nothing is currently listening."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
