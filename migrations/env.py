"""Runs migrations: one program at a time, with time limits, and all of them in one transaction.

Several programs may start against one database at once, and each migrates first: the advisory lock makes them take
turns. It is the transaction's, so that it works through a pooler too. A migration that cannot lock its tables within
seconds gives up instead of queueing in front of everybody else's statements.

`alembic upgrade head --sql` writes the same as a script, for whoever may not let a program change a schema.
"""

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from migrations.refusals import RIGHTS, refusal, require_utf8
from registry.base.database import make_engine
from registry.base.database_errors import sqlstate
from registry.base.settings import Settings
from registry.tables.schema import metadata

ADVISORY_LOCK = 7026368402  # an arbitrary constant of this program
# Waiting for another migration may take long, so the limits are set after taking the lock.
TAKE_TURNS = (
    "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)",
    f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})",
    "SELECT set_config('statement_timeout', '10min', true), set_config('lock_timeout', '5s', true)",
)
REQUIRE_UTF8 = """\
DO $$ BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the database must have the encoding UTF8';
    END IF;
END $$"""
NO_LIMITS = TAKE_TURNS[0]  # for what else the transaction does


def migrate(connection: Connection) -> None:
    """Migrate in the connection's transaction. Raises MigrationRefused."""
    require_utf8(connection)
    for statement in TAKE_TURNS:
        connection.execute(text(statement))
    context.configure(connection=connection, target_metadata=metadata)
    try:
        with connection.begin_nested():
            context.run_migrations()
    except DBAPIError as error:
        if sqlstate(error) in RIGHTS:
            raise refusal(connection, error) from error
        raise
    connection.execute(text(NO_LIMITS))


def write_script() -> None:
    """Write the statements of the migrations to standard output, in one transaction; no database is asked."""
    # The parameter style decides whether a % is written twice.
    context.configure(
        dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, target_metadata=metadata, literal_binds=True
    )
    with context.begin_transaction():
        for statement in (REQUIRE_UTF8, *TAKE_TURNS):
            context.execute(statement)
        context.run_migrations()


within = context.config.attributes.get("within")
if context.is_offline_mode():
    write_script()
elif isinstance(within, Connection):
    migrate(within)
else:
    engine = make_engine(within or Settings().database_url, statement_timeout_seconds=0)
    try:
        with engine.begin() as connection:
            migrate(connection)
    finally:
        engine.dispose()
