"""Servers of other makers, as operators run them: Debian's pgbouncer, nginx and redis-server."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.base import addresses
from tests.patience import until

REQUIRED = "MELO_TEST_REQUIRE_SERVERS"  # set where they must be installed, as in CI


def program(name: str) -> str:
    """The path of a program, without which the test is skipped; or fails, where it must be installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        told = f"{name} is not installed: apt-get install {name}"
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(told)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the end of the block, once it answers at its port."""
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers)
        yield
    finally:
        server.terminate()
        server.wait()


@contextmanager
def pooled(url: str, mode: str, size: int = 5) -> Iterator[str]:
    """The URL of the same database behind pgbouncer, with as many connections to it."""
    given = addresses.of_database(url)
    folder, port = Path(tempfile.mkdtemp(prefix="melo-pgbouncer-")), free_port()
    folder.chmod(0o755)
    place = " ".join(f"{name}={given[name]}" for name in ("host", "port") if name in given)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = {place} user={given['user']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 500\n"
    )
    command = [program("pgbouncer"), str(folder / "pgbouncer.ini")]
    if os.getuid() == 0:  # as which it refuses to run: it runs as the owner of the database's socket
        command += ["-u", pwd.getpwuid(os.stat(given["host"]).st_uid).pw_name]
    try:
        with running(command, port, folder / "log"):
            yield f"postgresql://{given['user']}@127.0.0.1:{port}/{given['dbname']}"
    finally:
        shutil.rmtree(folder)


@contextmanager
def proxied(folder: Path, upstream: str, location: str, *lines: str) -> Iterator[str]:
    """The URL under which nginx shows a server, under /melo, which it takes off where the location is `/`."""
    port = free_port()
    conf = folder / "nginx.conf"
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    conf.write_text(
        f"user {getpass.getuser()};\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\n"
        "events {}\nhttp {\n access_log off;\n"
        + "".join(f" {each}_temp_path {folder}/{each};\n" for each in temporary)
        + f" server {{ listen 127.0.0.1:{port}; location /melo/ {{\n"
        f"  proxy_pass {upstream}{location};\n"
        "  proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
        + "".join(f"  {line};\n" for line in lines)
        + "  proxy_http_version 1.1; proxy_buffering off;\n }}\n}\n"
    )
    with running([program("nginx"), "-c", str(conf)], port, folder / "nginx.log"):
        yield f"http://127.0.0.1:{port}/melo"
