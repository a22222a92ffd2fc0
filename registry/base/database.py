"""Database connections, migrations, and the comparison of the database's schema with this program's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, func, select, text
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from registry.base import addresses
from registry.base.database_errors import explained, quote_no_rows
from registry.base.errors import SchemaMismatch

# Errors while the database is unreachable. InternalError: it is read-only for a while after a failover.
# PoolTimeout: no connection of the pool became free.
UNREACHABLE = (OperationalError, InterfaceError, InternalError, PoolTimeout)

# Next to the package `registry`, both in a checkout and in an installed wheel.
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
IDLE_SECONDS = 300  # of an open transaction: more than any work that is done between two statements
_LOCK_SHARE = 0.9  # of the longest statement, after which one that waits for a lock is told so


def make_engine(url: str, statement_timeout_seconds: float = 30, pool_size: int = 10) -> Engine:
    """Create an engine whose transactions use UTC and cancel statements that take too long (0: never).

    The server ends a transaction in which nothing happens for IDLE_SECONDS: a process that is frozen, or cut off from
    the network, must not keep its locks. Nothing is set for longer than a transaction, and no statement is prepared, so
    that a pooler may give each transaction another connection. url: as registry.base.addresses reads it.
    """
    given = addresses.of_database(url)
    place: dict[str, str] = {name: given[name] for name in ("host", "port") if name in given}
    engine = create_engine(
        # For people: it has no password. What is connected with are the arguments below.
        URL.create("postgresql+psycopg", given.get("user"), database=given.get("dbname"), query=place),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # an error quotes no row
        connect_args=_CONNECTING | _several(given) | given | {"client_encoding": "utf8", "prepare_threshold": None},
    )
    settings = _settings(statement_timeout_seconds)

    @event.listens_for(engine, "begin")
    def set_up(connection: Connection) -> None:
        """Begin a transaction; use its connection for no other one where it is read-only, as after a failover.

        It may stay so when the database can be written again, or lead to a server that can no longer be.
        """
        if connection.exec_driver_sql(settings).scalar() == "on":
            connection.connection.invalidate(soft=True)

    @event.listens_for(engine, "handle_error")
    def strip(context: ExceptionContext) -> None:
        for error in (context.original_exception, context.sqlalchemy_exception):
            if error is not None:
                quote_no_rows(error)

    return engine


# What a URL may set otherwise.
_CONNECTING = {
    "connect_timeout": "5",
    # A server that is cut off from the network is missed within some 20 seconds, not after hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",  # milliseconds
    "fallback_application_name": "melo",
}


def _several(given: Mapping[str, str]) -> dict[str, str]:
    """Of several hosts, connect to the one that can be written."""
    return {"target_session_attrs": "read-write"} if "," in given.get("host", given.get("hostaddr", "")) else {}


def _settings(statement_timeout_seconds: float) -> str:
    """Return the statement that begins every transaction: its settings, until its end, and whether it is read-only."""
    milliseconds = int(statement_timeout_seconds * 1000)
    settings: dict[str, Any] = {
        "statement_timeout": milliseconds,
        "lock_timeout": int(milliseconds * _LOCK_SHARE),
        "idle_in_transaction_session_timeout": IDLE_SECONDS * 1000,
        "timezone": "UTC",
        # A plan over a large collection looks expensive, but compiling it would take longer than running it.
        "jit": "off",
        # Digests cover exact floats, and a server's setting below 1 would round them.
        "extra_float_digits": 1,
        # A backup's rows are text, which another server must read with the same meaning.
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "bytea_output": "hex",
    }
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    return f"SELECT current_setting('transaction_read_only'), {calls}"


def now(session: Session) -> datetime:
    """Return the time by the database's clock, which all times in the record are compared with: the clocks of API and
    workers may differ from it, and from each other.
    """
    found: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return found


def require_writable(engine: Engine) -> None:
    """Raise DatabaseReadOnly where the database cannot be written, and what SQLAlchemy raises where it is away."""
    with engine.connect() as connection:
        read_only = connection.scalar(text("SELECT current_setting('transaction_read_only')::bool"))
    if read_only:
        raise explained(ReadOnlySqlTransaction())


def make_sessions(engine: Engine, **info: object) -> sessionmaker[Session]:
    """Create a session factory whose objects stay readable after the commit that ends a request or task.

    info: what each session carries, such as `signing` (see `registry.audit.trust`).
    """
    return sessionmaker(engine, expire_on_commit=False, info=info)


def _config(within: str | Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["within"] = within
    return config


def upgrade(within: str | Connection, revision: str = "head") -> None:
    """Migrate a database up to `revision`, or to this program's schema; nothing happens if it is already there.

    within: the database's URL, or a connection, whose transaction the migration becomes a part of. All of it happens,
    or nothing. Raises MigrationRefused where the database lacks an encoding, an extension or a right.
    """
    command.upgrade(_config(within), revision)


def downgrade(within: str | Connection, revision: str) -> None:
    command.downgrade(_config(within), revision)


def require_no_drift(url: str) -> None:
    """Raise alembic.util.AutogenerateDiffsDetected if models and migrations differ."""
    command.check(_config(url))


def revisions() -> list[str]:
    """Return the revisions that this program knows, oldest first."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in scripts][::-1]


@dataclass(frozen=True)
class SchemaState:
    revision: str | None  # the database's; None: it has no schema yet
    head: str | None  # this program's

    @property
    def current(self) -> bool:
        return self.revision == self.head

    def require_current(self) -> None:
        """Raise SchemaMismatch unless the database's schema is this program's."""
        if self.current:
            return
        if self.revision is None or self.revision in revisions():
            detail = (
                "The database has no schema yet."
                if self.revision is None
                else f"The database's schema is older ({self.revision}) than this program's ({self.head})."
            )
            raise SchemaMismatch(detail, "Run `melo migrate`.")
        raise SchemaMismatch(
            f"The database's schema ({self.revision}) is not known to this program, whose newest is {self.head}.",
            "A newer release migrated it: upgrade this program.",
        )


def schema_state(within: Engine | Connection) -> SchemaState:
    """Return the revision of a database's schema, and this program's."""
    if isinstance(within, Engine):
        with within.connect() as connection:
            return schema_state(connection)
    revision = MigrationContext.configure(within).get_current_revision()
    return SchemaState(revision=revision, head=ScriptDirectory.from_config(_config()).get_current_head())
