"""What a database's error says of a row goes into no log, no answer and no job: rows are erased, and these are not."""

import json
import subprocess
import sys
import traceback

import psycopg
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from registry.base.database_errors import quote_no_rows
from registry.base.errors import first_line
from registry.base.logging import SHARED
from registry.tables.copying import copy_rows
from registry.tables.edits import Edit

SECRET = "Jo Doe's address is 12 Elm Street"

# Each is refused with a message, a DETAIL or a CONTEXT that quotes the value.
REFUSED = {
    "a key that exists": "INSERT INTO secrets VALUES (:value, 1), (:value, 2)",
    "a failing row": "INSERT INTO secrets VALUES (:value, -1)",
    "a missing value": "INSERT INTO secrets VALUES (:value, NULL)",
    "a missing reference": "INSERT INTO mentions VALUES (:value)",
    "no number": "SELECT CAST(:value AS integer)",
    "no time": "SELECT CAST(:value AS timestamptz)",
    "no JSON": "SELECT CAST(:value AS jsonb)",
    "no array": "SELECT CAST('{' || :value AS text[])",
    "no pattern": "SELECT 'x' ~ ('(' || :value)",
    "within a function": "DO $$ BEGIN PERFORM CAST(current_setting('melo.secret') AS integer); END $$",
}
TABLES = """
CREATE TEMPORARY TABLE secrets (prompt text PRIMARY KEY, number integer NOT NULL CHECK (number > 0));
CREATE TEMPORARY TABLE mentions (prompt text REFERENCES secrets);
"""


def shown(error: BaseException) -> str:
    """An error in all the ways in which programs show one."""
    lines: list[str] = []
    log = structlog.wrap_logger(None, processors=[*SHARED, lambda *given: lines.append(json.dumps(given[2])) or ""])
    try:
        raise RuntimeError("in between") from error
    except RuntimeError as outer:
        for exc_info in (True, outer, error, (type(outer), outer, outer.__traceback__)):
            log.error("defect", exc_info=exc_info)
        return "\n".join([str(error), repr(error), first_line(error), *traceback.format_exception(outer), *lines])


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_an_error_of_the_database_quotes_no_value(engine, statement):
    with engine.connect() as connection:
        for each in TABLES.strip().split("\n"):
            connection.exec_driver_sql(each)
        connection.execute(text("SELECT set_config('melo.secret', :value, true)"), {"value": SECRET})
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text(statement), {"value": SECRET})
    assert "Elm Street" not in shown(caught.value)


def test_a_copied_row_is_not_quoted(engine, workflow):
    for row, kind in (((SECRET, 1), "text"), ((None, SECRET), "number")):
        with pytest.raises(DBAPIError) as caught, Session(engine) as session:
            copy_rows(session, Edit, ["prompt", "batch_id"], [row])
        assert "Elm Street" not in shown(caught.value), kind


def test_a_driver_of_its_own_is_not_quoted_in_a_log(database_url):
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT CAST(%s AS integer)", [SECRET])
    assert "Elm Street" in str(caught.value)
    lines: list[str] = []
    log = structlog.wrap_logger(None, processors=[*SHARED, lambda *given: lines.append(json.dumps(given[2])) or ""])
    log.error("defect", exc_info=caught.value)
    assert "Elm Street" not in lines[0] and "InvalidTextRepresentation" in lines[0]


def test_neither_an_answer_nor_the_apis_log_quotes_what_the_database_refuses(api, engine, workflow):
    """A constraint, and a function, that an operator added."""
    for refusal in ("CHECK (strpos(target, 'Elm') = 0)", "CHECK (CAST(target AS integer) > 0)"):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE edits ADD CONSTRAINT mine {refusal}")
        with capture_logs([*SHARED]) as lines:
            answer = api.post("/v1/collections/facts/batches", json={"edits": [{"prompt": "Who?", "target": SECRET}]})
        assert answer.status_code in (422, 500)
        told = answer.text + json.dumps(lines)
        assert "Elm" not in told and ("mine" in told or "invalid input syntax for type integer" in told)
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE edits DROP CONSTRAINT mine")


def test_what_names_no_value_is_still_said(engine, workflow):
    with pytest.raises(IntegrityError) as caught, engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO collections (name) VALUES ('facts')")
    assert 'null value in column "model" of relation "collections"' in first_line(caught.value)
    quote_no_rows(caught.value)  # again
    assert caught.value.orig.diag.column_name == "model"


LOGGED = """
import logging, sys, warnings
import structlog
from registry.base.logging import configure_logging

configure_logging(sys.stdout)
odd = "".join(map(chr, [7, 27, 127, 155, 173, 0x202E, 0x2066, 0x200B, 0x2028, 0xE0041]))
structlog.get_logger().info(odd, target=odd, **{odd: [odd]})
logging.getLogger("a" + odd).warning("of a library: %s", odd)
warnings.warn(odd)
for log in (structlog.get_logger(), logging.getLogger("uvicorn.error")):
    try:
        raise ValueError(odd)
    except ValueError:
        log.exception("failed")
"""


def test_a_log_holds_ascii_alone_in_which_nothing_acts_on_a_terminal():
    done = subprocess.run([sys.executable, "-c", LOGGED], capture_output=True, check=True)
    lines = done.stdout.decode("ascii").splitlines()
    assert done.stderr == b"" and len(lines) == 5
    assert all(line.isprintable() and json.loads(line)["level"] for line in lines)
