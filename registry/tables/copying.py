"""Writing many rows at once, by PostgreSQL's COPY."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.tables.orm import Base

IN_A_STATEMENT = 10_000  # rows, so that none takes longer than statements may


def copy_rows(session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows in the session's transaction, streamed: memory stays the same however many there are.

    Triggers, constraints and column defaults hold as they do for INSERT. Raises what the session raises.
    """
    session.flush()
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.__tablename__), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    left = iter(rows)
    try:
        while part := list(islice(left, IN_A_STATEMENT)):
            with driver.cursor() as cursor, cursor.copy(statement) as copy:
                for row in part:
                    copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError.instance(statement.as_string(), None, error, psycopg.Error) from error
