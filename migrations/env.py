"""Runs migrations: one at a time, with time limits, each in its own transaction.

Several programs may start against one database at once, and each migrates first: the advisory lock makes them take
turns. A migration that cannot lock its tables within seconds gives up instead of queueing in front of everybody else's
statements.
"""

from alembic import context
from sqlalchemy import Connection, text

from registry.base.database import make_engine
from registry.base.settings import Settings
from registry.tables.schema import metadata

ADVISORY_LOCK = 7026368402  # an arbitrary constant of this program


def migrate(connection: Connection) -> None:
    # Waiting for another migration may take long, so the limits are set after taking the lock.
    connection.execute(text("SET statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '10min'"))
    connection.commit()
    try:
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


given = context.config.attributes.get("url")
engine = make_engine(given or Settings().database_url, statement_timeout_seconds=0)
try:
    with engine.connect() as connection:
        migrate(connection)
finally:
    engine.dispose()
