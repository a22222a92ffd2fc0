"""Verifying the database's own guards: its triggers and their functions, as this program's migrations make them.

A guard that is gone or rewritten changes no row by itself; it lets others be changed.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.base.database import MIGRATIONS
from registry.tables.schema import metadata
from registry.verification.verified import Verified

FILE = MIGRATIONS / "guards.json"  # written by `python -m migrations.schema`

_TRIGGERS = text("""
SELECT relname AS on_table, tgname AS name, tgenabled::text AS enabled, pg_get_triggerdef(pg_trigger.oid, true) AS made
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE NOT tgisinternal AND relname = ANY(:tables) AND relnamespace = current_schema()::regnamespace
""")
_DISABLED = text("""
SELECT DISTINCT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgisinternal AND tgenabled = 'D' AND relname = ANY(:tables) AND relnamespace = current_schema()::regnamespace
ORDER BY relname
""")
_FUNCTIONS = text("""
SELECT proname AS name, concat_ws(E'\\n', pg_get_function_identity_arguments(pg_proc.oid), lanname, prosecdef,
    array_to_string(proconfig, ' '), prosrc) AS made
FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
WHERE proname LIKE 'melo\\_%' AND pronamespace = current_schema()::regnamespace
""")
_RULES = text("""
SELECT tablename, rulename FROM pg_rules
WHERE tablename = ANY(:tables) AND schemaname = current_schema() ORDER BY tablename, rulename
""")


def read(session: Session) -> dict[str, str]:
    """Return the definitions of all triggers and functions in the database, by their names."""
    names = {"tables": _tables()}
    triggers = {
        f"trigger {row.name} on {row.on_table}": f"{row.enabled} {row.made}".replace("public.", "")
        for row in session.execute(_TRIGGERS, names)
    }
    functions = {f"function {row.name}": row.made for row in session.execute(_FUNCTIONS)}
    return triggers | functions


def verify_guards(session: Session) -> Verified:
    """Verify that triggers and functions are those of the migrations, that none is switched off, and none was added."""
    made, found = _made(), read(session)
    for name in sorted(made.keys() | found.keys()):
        yield name, _wrong_with(made.get(name), found.get(name))
    names = {"tables": _tables()}
    for table in session.scalars(_DISABLED, names):
        yield f"table {table}", ["its foreign keys are switched off"]
    for row in session.execute(_RULES, names):
        yield f"rule {row.rulename} on {row.tablename}", ["no migration makes it"]
    roles = text(
        "SELECT setting FROM pg_db_role_setting, unnest(setconfig) AS setting "
        "WHERE setting LIKE 'session_replication_role=%' AND setting <> 'session_replication_role=origin'"
    )
    for setting in session.scalars(roles):
        yield "settings of the database", [f"{setting} switches triggers off"]


def _wrong_with(made: str | None, found: str | None) -> list[str]:
    if made is None:
        return ["no migration makes it"]
    if found is None:
        return ["it is gone"]
    if found != made:
        off = found.partition(" ")[0] == "D" and found.partition(" ")[2] == made.partition(" ")[2]
        return ["it is switched off" if off else "it was written anew"]
    return []


@cache
def _made() -> Mapping[str, str]:
    content: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return content


def _tables() -> list[str]:
    return sorted(metadata.tables)
