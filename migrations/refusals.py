"""Why a database cannot be migrated, and what somebody with the rights has to run there, all of it at once."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from registry.base.errors import MigrationRefused, first_line

# The SQLSTATEs of what only somebody else can change: a right, an extension's files or a schema is missing, or another
# program has a table of the same name.
RIGHTS = ("42501", "0A000", "58P01", "3F000", "42P07")
_AGAIN = "then run `melo migrate` again."
_LACKING = """
SELECT quote_ident(current_database()), quote_ident(current_user), quote_ident(current_schema()),
    current_schema() IS NOT NULL AND has_schema_privilege(current_schema(), 'CREATE'),
    EXISTS (SELECT FROM pg_extension WHERE extname = 'vector'),
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')
"""


def require_utf8(connection: Connection) -> None:
    """Raise MigrationRefused unless the database can hold every text as it was written."""
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
        raise MigrationRefused(
            f"The database {name} has the encoding {encoding}, which cannot hold every text.",
            "Create another with `CREATE DATABASE melo ENCODING 'UTF8' TEMPLATE template0`, and name it in "
            "MELO_DATABASE_URL.",
        )


def refusal(connection: Connection, error: DBAPIError) -> MigrationRefused:
    """Return what the database's user lacks, and what a superuser has to run."""
    database, user, schema, may_create, has_vector, has_files = connection.execute(text(_LACKING)).one()
    missing, run = [], []
    if not has_vector:
        missing.append("may not create the extension vector" if has_files else "finds no extension vector")
        run.append("CREATE EXTENSION vector;")
    if schema is None:
        missing.append("has no schema to create tables in")
        run.append(f"CREATE SCHEMA {user} AUTHORIZATION {user};")
    elif not may_create:
        missing.append(f"may not create tables in the schema {schema}")
        run.append(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user};")
    if not run:
        return MigrationRefused(
            f"The user {user} of the database {database} was refused: {first_line(error)}.",
            "Migrate as the owner of the tables, and give the registry a database that holds no others of such names.",
        )
    told = f"have a superuser run `{' '.join(run)}` in the database {database}, {_AGAIN}"
    if not has_files:
        told = f"install pgvector on the database's server (Debian: postgresql-18-pgvector), {told}"
    return MigrationRefused(f"The user {user} {' and '.join(missing)}.", told[:1].upper() + told[1:])
