"""The record, for a command that reads it in the database and not through the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.invocation import Invocation

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


@contextmanager
def record_of(call: Invocation) -> "Iterator[sessionmaker[Session]]":
    """Open the named database, else MELO_HOME's. Raises DatabaseAway where none answers, or SchemaMismatch."""
    from registry.audit.trust import signing_of
    from registry.base.database import UNREACHABLE, make_engine, make_sessions, schema_state
    from registry.base.database_errors import explained

    engine = make_engine(call.database_url(), call.settings.statement_timeout_seconds)
    try:
        schema_state(engine).require_current()
        yield make_sessions(engine, signing=signing_of(call.settings))
    except UNREACHABLE as error:
        raise explained(error) from None
    finally:
        engine.dispose()
