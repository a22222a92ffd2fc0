"""Bulk inserts by PostgreSQL's COPY."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.base.database_errors import quote_no_rows
from registry.tables.orm import Base

IN_A_STATEMENT = 10_000  # rows, so that no statement exceeds the timeout


def copy_rows(session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows in the session's transaction by streaming them, in constant memory.

    Triggers, constraints and column defaults apply as they do for INSERT. Raises what the session raises.
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
        quote_no_rows(error)
        raise DBAPIError.instance(statement.as_string(), None, error, psycopg.Error) from error
