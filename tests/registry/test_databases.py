"""The database as operators have it: its address, its encoding, when it is read-only, and what its errors mean."""

import subprocess
import sys

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from cli.main import main
from embedded.programs import postgres_folder
from registry.api.app import create_app
from registry.base import addresses, database, probes
from registry.base.database import make_engine, require_no_drift, upgrade
from registry.base.database_errors import explained
from registry.base.errors import InvalidRequest, MigrationRefused
from registry.base.settings import Settings
from tests.conftest import in_database
from tests.operators_key import OPERATOR, SECRET
from tests.registry.keys import key
from tests.registry.problem import is_problem
from tests.registry.submissions import PARIS

# Passwords with characters that an address gives a meaning.
MISREAD = [
    "postgresql://melo:se@cret@db/melo",
    "postgresql://melo:se/cret@db/melo",
    "postgresql://melo:12/cret@db/melo",
    "postgresql://melo:se?cret@db/melo",
    "postgresql://melo:secret%@db/melo",
    "postgresql://melo:secret@db:54a2/melo",
    "postgresql://melo@db/melo?password=secret&sslmod=require",
    "postgresql+asyncpg://melo:secret@db/melo",
    "host=db password='secret",
    "secret",
    "",
]


@pytest.mark.parametrize("url", MISREAD)
def test_an_address_that_cannot_be_read_is_refused_without_being_repeated(url):
    for read in (make_engine, addresses.without_password, probes.of_postgres):
        with pytest.raises((InvalidRequest, probes.ProbeFailed)) as caught:
            read(url)
        assert "cret" not in str(caught.value) and "MELO_DATABASE_URL" in str(caught.value)
        assert caught.value.__suppress_context__ or "cret" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "url",
    ["redis://:se#cret@r:6379/0", "redis://:se/cret@r:6379/0", "redis://:se@cret@r/0", "redis://r:secret", "secret"],
)
def test_a_brokers_address_that_cannot_be_read_is_refused_without_being_repeated(url):
    with pytest.raises(probes.ProbeFailed, match="MELO_REDIS_URL") as caught:
        probes.of_broker(url)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://melo:secret@a:1,b:2/x?sslpassword=secret", "postgresql://melo@a:1,b:2/x"),
        ("postgresql://db/x?user=melo&password=secret", "postgresql://melo@db/x"),
        ("host=/run/pg dbname=x password=secret", "postgresql:///x?host=/run/pg"),
        ("postgres+psycopg://melo:se%40cret@[::1]/x", "postgresql://melo@::1/x"),
    ],
)
def test_an_address_is_shown_without_any_of_its_secrets(url, shown):
    assert addresses.without_password(url) == shown
    assert "cret" not in repr(make_engine(url))


def test_what_an_address_says_is_respected(database_url):
    """Several hosts, of which the first is away, options for the session, and a name."""
    given = addresses.of_database(database_url)
    url = (
        f"postgresql://{given['user']}@/{given['dbname']}?host=127.0.0.1,{given['host']}&port=1,5432"
        "&options=-csearch_path%3Dpg_catalog&application_name=mine&connect_timeout=3"
    )
    engine = make_engine(url)
    with engine.connect() as connection:
        shown = [connection.scalar(text(f"SHOW {name}")) for name in ("search_path", "application_name", "timezone")]
    assert shown == ["pg_catalog", "mine", "UTC"]
    engine.dispose()


def test_a_servers_certificate_is_demanded_where_the_address_says_so(database_url):
    engine = make_engine(database_url.replace("host=", "sslmode=verify-full&host=127.0.0.1&hostaddr="))
    with pytest.raises((DBAPIError, InvalidRequest)):
        engine.connect()


def test_texts_are_utf8_and_transactions_read_committed_whatever_the_surroundings_say(
    database_url, engine, monkeypatch
):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with engine.connect() as connection, connection.begin():
        connection.execute(
            text(f"ALTER DATABASE {engine.url.database} SET default_transaction_isolation = serializable")
        )
        connection.commit()
    other = make_engine(database_url)
    with other.connect() as connection:
        shown = [connection.scalar(text(f"SHOW {name}")) for name in ("client_encoding", "transaction_isolation")]
        assert connection.scalar(text("SELECT '✓ é'")) == "✓ é"
    assert shown == ["UTF8", "read committed"]
    other.dispose()


@pytest.fixture
def unusual(postgres):
    """Make databases with options of CREATE DATABASE."""
    made = []

    def make(name, options):
        made.append(name)
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return in_database(postgres, name)

    yield make
    with psycopg.connect(postgres, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_not_migrated(unusual, encoding):
    url = unusual(f"in_{encoding.lower()}", f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with pytest.raises(MigrationRefused, match=rf"in_{encoding.lower()} has the encoding {encoding}.*ENCODING 'UTF8'"):
        upgrade(url)


def test_a_refused_migration_says_what_a_superuser_has_to_run(unusual, postgres):
    url = unusual("of_another", "")
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE clerk LOGIN")
        try:
            clerk = url.replace("postgres:@", "clerk@").replace("//postgres@", "//clerk@")
            with pytest.raises(MigrationRefused) as caught:
                upgrade(clerk)
            assert "in the database of_another" in caught.value.remedy
            _, statements, _ = caught.value.remedy.split("`", 2)
            superuser.execute(statements)
            upgrade(clerk)
            require_no_drift(clerk)
        finally:
            superuser.execute("DROP OWNED BY clerk")
            superuser.execute("DROP ROLE clerk")


def test_a_missing_right_is_named_and_says_on_what(database_url, engine, monkeypatch, capsys):
    """Of SQLAlchemy and of the driver by itself, to the operator and in an answer."""
    with engine.begin() as superuser:
        superuser.exec_driver_sql("CREATE ROLE reader LOGIN")
    url = make_url(database_url).set(username="reader").render_as_string(hide_password=False)
    try:
        denied = make_engine(url)
        with pytest.raises(DBAPIError) as caught, denied.connect() as connection:
            connection.execute(text("SELECT * FROM edits"))
        denied.dispose()
        for error in (caught.value, caught.value.orig):
            told = explained(error)
            assert told.code == "database-denied" and "permission denied for table edits" in told.detail
        with TestClient(create_app(Settings(database_url=url, api_key=SECRET)), headers=OPERATOR) as api:
            is_problem(api.get("/readyz"), 503, "database-denied")
        monkeypatch.setenv("MELO_DATABASE_URL", url)
        for arguments in (["migrate"], ["backup", "/tmp/of-nobody.melo"]):
            monkeypatch.setattr(sys, "argv", ["melo", *arguments])
            with pytest.raises(SystemExit, match="1"):
                main()
            assert "lacks a right on what the record consists of: permission denied" in capsys.readouterr().err
    finally:
        with engine.begin() as superuser:
            superuser.exec_driver_sql("DROP ROLE reader")


def test_a_migration_that_meets_a_lock_says_so(database_url, engine):
    with engine.connect() as holder:
        holder.execute(text("LOCK TABLE jobs"))
        with pytest.raises(database.UNREACHABLE) as caught:
            database.downgrade(database_url, "base")
        holder.rollback()
    assert "holds a lock on a table" in explained(caught.value).detail


def test_the_script_that_alembic_writes_offline_makes_the_schema(empty_database_url):
    """Without any database named: a script for whoever may not let a program change a schema."""
    alembic = [sys.executable, "-m", "alembic", "upgrade", "head", "--sql"]
    script = subprocess.run(alembic, cwd=database.MIGRATIONS.parent, check=True, capture_output=True).stdout
    psql = [str(postgres_folder() / "psql"), "-q", "-v", "ON_ERROR_STOP=1", empty_database_url]
    done = subprocess.run(psql, input=script, capture_output=True)
    assert done.returncode == 0, done.stderr
    require_no_drift(empty_database_url)


def test_a_statement_that_takes_too_long_is_named(database_url):
    engine = make_engine(database_url, statement_timeout_seconds=0.1)
    with pytest.raises(DBAPIError) as caught, engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))
    assert explained(caught.value).detail == "The database took too long for this request."
    engine.dispose()


def test_an_error_that_is_logged_quotes_no_row(engine):
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.execute(text("select cast(:target as integer)"), {"target": "secret"})
    assert "secret" not in str(caught.value).replace(str(caught.value.orig), "")


def test_a_full_disk_is_named(engine, monkeypatch):
    """PostgreSQL's own error, raised by the server itself."""
    with pytest.raises(DBAPIError) as caught, engine.connect() as connection:
        connection.execute(text("DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"))
    error = explained(caught.value)
    assert (error.code, error.detail) == ("database-full", "The disk of the database's server is full.")


def test_a_database_that_is_read_only_for_a_while_is_a_problem_and_heals(api, workflow, engine, relay, database_url):
    """Connections that were opened meanwhile stay read-only, and must not be used afterwards."""
    headers, name = key(api, "ci", "editor"), engine.url.database
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    for each in (engine, api.app.state.engine):
        each.dispose()
    for _ in range(3):
        is_problem(api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}), 503, "database-read-only")
        is_problem(api.get("/readyz"), 503, "database-read-only")
        assert api.get("/v1/collections/facts", headers=headers).status_code == 200
    with pytest.raises(probes.ProbeFailed, match="read-only"):
        probes.of_writable(database_url)
    with pytest.raises(database.UNREACHABLE):
        relay.turn()
    with psycopg.connect(database_url, options="-c default_transaction_read_only=off", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert api.get("/readyz").status_code == 200
    assert api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}).status_code == 201
    relay.turn()
    probes.of_writable(database_url)
