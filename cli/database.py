"""The record's database, for commands that do not go through the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.invocation import Invocation

if TYPE_CHECKING:
    from sqlalchemy import Engine


@contextmanager
def database(call: Invocation) -> "Iterator[Engine]":
    """Open the named database, else MELO_HOME's, without a limit on the time of statements.

    Raises CommandError where there is none, and DatabaseAway where it does not answer.
    """
    from registry.base.database import UNREACHABLE, make_engine
    from registry.base.database_errors import explained

    engine = make_engine(call.database_url(), statement_timeout_seconds=0)
    try:
        yield engine
    except UNREACHABLE as error:
        raise explained(error) from None
    finally:
        engine.dispose()
