"""The bench's own databases, on a temporary server or on the one that MELO_DATABASE_URL names."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from cli.errors import CommandError
from embedded.stack import running
from registry.base.database import upgrade


@dataclass
class Databases:
    """Creates databases on an existing server, and drops those it created."""

    beside: str  # the URL of a database on that server
    made: list[str] = field(default_factory=list)

    def make(self, purpose: str) -> str:
        """Create an empty database with this program's schema, and return its URL."""
        name = f"melo_bench_{purpose}_{uuid4().hex[:8]}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self.made.append(name)
        url = make_url(self.beside).set(database=name).render_as_string(hide_password=False)
        upgrade(url)
        return url

    def drop_all(self) -> None:
        for name in list(self.made):
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self.made.remove(name)

    def _execute(self, statement: sql.Composed) -> None:
        plain = make_url(self.beside).set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            with psycopg.connect(plain, autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.Error as error:
            raise CommandError(
                "The bench cannot use the server",
                str(error).strip(),
                "Give MELO_DATABASE_URL a role that may create databases, or unset it for a server of its own.",
            ) from None


@contextmanager
def databases(url: str) -> Iterator[Databases]:
    """Open databases on the server of the given database; with an empty URL, on a temporary embedded server."""
    if url:
        with _dropped(Databases(url)) as found:
            yield found
        return
    folder = Path(tempfile.mkdtemp(prefix="melo-bench-"))
    try:
        with running(folder, worker=False, api=False) as stack, _dropped(Databases(stack.database_url)) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _dropped(found: Databases) -> Iterator[Databases]:
    try:
        yield found
    finally:
        found.drop_all()
