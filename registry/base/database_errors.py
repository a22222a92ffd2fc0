"""Say what a database's error means, and what to do about it."""

import re
from typing import NamedTuple

import psycopg
from sqlalchemy.exc import DBAPIError

from registry.base.errors import (
    DatabaseAway,
    DatabaseDenied,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    first_line,
)


class _Meaning(NamedTuple):
    error: type[DatabaseAway]
    detail: str
    remedy: str


_MEANINGS = {
    "25006": _Meaning(
        DatabaseReadOnly,
        "The database is read-only, as in maintenance or after a failover.",
        "Repeat it when the database can be written again; nothing has to be restarted.",
    ),
    "42501": _Meaning(
        DatabaseDenied,
        "The database's user lacks a right on what the record consists of.",
        "Connect as the owner of the record's tables, or let the owner GRANT this user the rights.",
    ),
    "53100": _Meaning(
        DatabaseFull, "The disk of the database's server is full.", "Free some space there, and repeat it."
    ),
    "53200": _Meaning(DatabaseAway, "The database's server has no memory left.", "Give it more, or ask for less."),
    "53300": _Meaning(
        DatabaseAway, "The database has no connection left.", "Raise its max_connections, or run fewer processes."
    ),
    "55P03": _Meaning(
        DatabaseLocked,
        "Another transaction holds a lock on a table or a row that this needs.",
        "Repeat it when that has ended; `SELECT * FROM pg_stat_activity WHERE state <> 'idle'` shows which run.",
    ),
    "57014": _Meaning(
        DatabaseAway, "The database took too long for this request.", "Ask for less, or try again later."
    ),
    "40P01": _Meaning(DatabaseLocked, "Two transactions waited for each other, and this one was ended.", "Repeat it."),
    "40001": _Meaning(DatabaseLocked, "Another transaction wrote the same rows meanwhile.", "Repeat it."),
}


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error of psycopg, or of SQLAlchemy around it; None where the server gave none."""
    original = getattr(error, "orig", error)
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_named(error: BaseException) -> bool:
    """Tell whether the error has a name of its own here, besides that the database does not answer."""
    return sqlstate(error) in _MEANINGS


def explained(error: BaseException, *, to_operator: bool = True) -> DatabaseAway:
    """Return what a failure of the database means for its user.

    to_operator: whether to quote the driver's reason, which names hosts and users.
    """
    meaning = _MEANINGS.get(sqlstate(error) or "")
    if meaning is not None:
        original = getattr(error, "orig", error)
        if meaning.error is DatabaseDenied and isinstance(original, psycopg.Error) and original.diag.message_primary:
            return DatabaseDenied(f"{meaning.detail.rstrip('.')}: {original.diag.message_primary}.", meaning.remedy)
        return meaning.error(meaning.detail, meaning.remedy)
    if to_operator:
        return DatabaseAway(
            f"The database does not answer: {first_line(error).rstrip('.')}.",
            "Check MELO_DATABASE_URL and that the server runs (`melo status`).",
        )
    return DatabaseAway(
        "The database does not answer.",
        "When it is back (`melo status`), see whether the request had an effect, and repeat it if not.",
    )


_QUOTED = re.compile("[\"'»«„“‘].*[\"'«»“”’]", re.DOTALL)
_DATA_EXCEPTIONS = "22"  # the class of errors whose sentence quotes the value that is none
_BAD_COPY = "22P04"  # among these: it quotes a column's name alone


def sentence(error: psycopg.Error) -> str:
    """Return what the server says of an error, without what quotes rows: its DETAIL, its CONTEXT, and refused values.

    Rows hold prompts and secrets, which may have to be erased; logs, answers and the errors of jobs are not erased.
    """
    told = error.diag.message_primary
    if told is None:  # the driver's own error, such as one of a connection
        return str(error)
    state = error.sqlstate or ""
    return _QUOTED.sub("…", told) if state.startswith(_DATA_EXCEPTIONS) and state != _BAD_COPY else told


def quote_no_rows(error: BaseException) -> None:
    """Reduce every database error in an error's chain to its sentence, however it is then shown."""
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, psycopg.Error):
            each.args = (sentence(each),)
        elif isinstance(each, DBAPIError) and isinstance(each.orig, psycopg.Error):
            kind = type(each.orig)
            each.args = (f"({kind.__module__}.{kind.__name__}) {sentence(each.orig)}",)
        near = (each.__cause__, each.__context__, getattr(each, "orig", None), *getattr(each, "exceptions", ()))
        left += [other for other in near if isinstance(other, BaseException)]
