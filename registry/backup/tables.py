"""Queries of a backup: which tables exist, how to copy them, and the state of their id sequences.

Columns, and which of the tables there are, are read from the database itself, so that a database with an older schema
can be backed up too: a backup is most useful before a migration. What else the database holds is not the registry's.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pgvector.sqlalchemy  # noqa: F401 (registers the type `vector` for reflection)
from psycopg import Connection, sql
from sqlalchemy import Connection as Engaged
from sqlalchemy import inspect

from registry.backup.archive import Member, SequenceState
from registry.tables.schema import metadata

# Alembic's own table, which `restore` fills by migrating; heartbeats of processes at the other database; answers that
# are stored for a day, for repeated requests; and the log of answers, whose policy says for how many days a question is
# kept: a backup would keep it longer. Feedback is in: it may wait for somebody to make a correction of it.
LEFT_OUT = {"alembic_version", "worker_heartbeats", "idempotency_keys", "answers"}

# Those that a revision drops or renames must be added here, or a backup of the schema before it would lack them.
_OWN = tuple(table.name for table in metadata.sorted_tables if table.name not in LEFT_OUT)

# A migration creates these rows. A restored registry is the one that was backed up, so the backup's rows replace them.
MADE_BY_MIGRATION = {"registry_identity"}

_PART = 1 << 18  # bytes

Raw = Connection[Any]


def raw(connection: Engaged) -> Raw:
    """Return psycopg's own connection, in the same transaction: SQLAlchemy has no COPY."""
    found = connection.connection.driver_connection
    assert isinstance(found, Connection)
    return found


@dataclass(frozen=True)
class TableShape:
    name: str
    columns: list[str]  # without generated columns
    key: list[str]


def tables(connection: Engaged) -> list[TableShape]:
    """Return every table of the record that the database has, each after those that it refers to."""
    catalogue = inspect(connection)
    there = set(catalogue.get_table_names())
    return [
        TableShape(
            name,
            [column["name"] for column in catalogue.get_columns(name) if "computed" not in column],
            catalogue.get_pk_constraint(name)["constrained_columns"],
        )
        for name in _OWN
        if name in there
    ]


def count(connection: Raw, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int(row[0]) if row else 0


def filled(connection: Raw, names: Iterable[str]) -> list[str]:
    """Return those of the tables that have rows."""
    found = []
    for name in names:
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(name))
        row = connection.execute(query).fetchone()
        if row and row[0]:
            found.append(name)
    return found


def rows_of(connection: Raw, table: TableShape) -> Generator[bytes]:
    """Yield the table as COPY writes it, in the order of its primary key.

    Close it before the connection is used again: until then, what the server still sends is in the way.
    """
    statement = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        _names(table.columns), sql.Identifier(table.name), _names(table.key)
    )
    gathered = bytearray()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in copy:
            gathered += row
            if len(gathered) >= _PART:
                yield bytes(gathered)
                gathered.clear()
    yield bytes(gathered)


def fill(connection: Raw, member: Member, parts: Iterator[bytes]) -> None:
    """Load a table. Constraints and foreign keys hold as always."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(member.table), _names(member.columns))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for part in parts:
            copy.write(part)


def set_triggers(connection: Raw, names: Sequence[str], *, enabled: bool) -> None:
    """Enable or disable the triggers that guard how a record grows: a restored record has grown already.

    A table's owner may do that, and it keeps others from writing until the commit. Foreign keys stay enforced.
    """
    word = sql.SQL("ENABLE" if enabled else "DISABLE")
    for name in names:
        connection.execute(sql.SQL("ALTER TABLE {} {} TRIGGER USER").format(sql.Identifier(name), word))


def clear(connection: Raw, table: str) -> None:
    connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


_SEQUENCES = """
SELECT sequence.relname FROM pg_class sequence JOIN pg_depend ON pg_depend.objid = sequence.oid
JOIN pg_class owner ON owner.oid = pg_depend.refobjid
WHERE sequence.relkind = 'S' AND pg_depend.deptype IN ('a', 'i')
    AND owner.relnamespace = current_schema()::regnamespace AND owner.relname = ANY(%s)
ORDER BY sequence.relname
"""


def sequences(connection: Raw, tables: Sequence[str]) -> list[SequenceState]:
    """Return the state of each sequence of the tables: an id is never assigned twice, even if its row is gone."""
    names = connection.execute(_SEQUENCES, [list(tables)]).fetchall()
    found = []
    for (name,) in names:
        state = connection.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name)))
        last_value, is_called = state.fetchone() or (1, False)
        found.append(SequenceState(name=name, last_value=last_value, is_called=is_called))
    return found


def set_sequence(connection: Raw, state: SequenceState) -> None:
    name = sql.Identifier(state.name).as_string(connection)
    connection.execute("SELECT setval(%s::regclass, %s, %s)", (name, state.last_value, state.is_called))


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)
