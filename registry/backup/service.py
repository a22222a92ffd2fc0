"""Backs up the record to one file, and restores it into an empty database.

Neither writes an event: a backup changes nothing, and the restored record is the one that was backed up, so its chain
continues where it ended and its checkpoints remain valid.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from registry.audit import repository as audit
from registry.audit.schemas import VerificationView
from registry.audit.signing import Signer
from registry.audit.trust import IN_SESSION, Signing, Trust
from registry.backup import tables
from registry.backup.archive import Archive, ArchiveWriter, Manifest
from registry.base import database
from registry.base.database_errors import quote_no_rows
from registry.base.errors import InvalidBackup, NotEmpty, SchemaMismatch, first_line
from registry.base.whole_files import new_file
from registry.verification import service as verification

Watch = Callable[[str, int, int], None]  # the table, the rows done, the rows in all


def backup(engine: Engine, path: Path, key: Signer | None, watch: Watch) -> Manifest:
    """Write one snapshot of the whole record to a new file, signed if a key is given.

    engine: one without a statement timeout. Others can write meanwhile. Raises SchemaMismatch for a database without a
    schema, FileExistsError, and OSError if the file cannot be written; no file is left then.
    """
    revision = database.schema_state(engine).revision
    if revision is None:
        raise SchemaMismatch("The database has no schema yet: there is nothing to back up.", "Run `melo migrate`.")
    # It contains prompts, hashes of keys and secrets of webhooks: only its owner may read it.
    with new_file(path, mode=0o600) as stream:
        archive = ArchiveWriter(stream)
        try:
            manifest = _write(engine, archive, revision, key, watch)
        finally:
            archive.abandon()
    return manifest


def _write(engine: Engine, archive: ArchiveWriter, revision: str, key: Signer | None, watch: Watch) -> Manifest:
    snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**snapshot) as connection:
        session, raw = Session(connection), tables.raw(connection)
        tip = audit.tip(session)  # the first query determines the snapshot
        members, shapes = [], tables.tables(connection)
        for table in shapes:
            count = _counting(watch, table.name, tables.count(raw, table.name))
            members.append(archive.add(table.name, table.columns, tables.rows_of(raw, table), count))
        manifest = Manifest(
            revision=revision,
            registry=audit.registry_id(session),
            time=tip.now.astimezone(UTC).isoformat(timespec="microseconds"),
            head_seq=tip.seq,
            head_hash=tip.hash,
            members=members,
            sequences=tables.sequences(raw, [table.name for table in shapes]),
        )
        return archive.close(manifest, key)


def verify(path: Path, trust: Trust | None, watch: Watch) -> Manifest:
    """Read the whole file, and compare every digest. Raises InvalidBackup."""
    archive = Archive(path)
    try:
        return _verified(archive, trust, watch)
    finally:
        archive.close()


def restore(
    engine: Engine, path: Path, trust: Trust | None, watch: Watch, *, dry_run: bool = False
) -> tuple[VerificationView, Manifest]:
    """Load a backup into an empty database, migrate it to this program's schema, and verify the whole record.

    engine: one without a statement timeout. trust: the keys of which one must have signed it; None: none is known, and
    an unsigned file is restored too. The schema is created if there is none; all of it happens in one
    transaction, which is taken back in a dry run, after the verification. Raises InvalidBackup, NotEmpty or
    MigrationRefused; nothing is restored then. What the verification finds was in the record when it was backed up.
    """
    archive = Archive(path)
    try:
        manifest = _verified(archive, trust, watch)
        with engine.connect() as connection, connection.begin() as transaction:
            _require_empty(connection)
            _bring_to(connection, manifest.revision)
            _load(connection, archive, watch)
            database.upgrade(connection)
            if dry_run:
                found = _verification(connection, trust, watch)
                transaction.rollback()
                return found, manifest
    finally:
        archive.close()
    return _verification(engine, trust, watch), manifest


def _verification(bound: Engine | Connection, trust: Trust | None, watch: Watch) -> VerificationView:
    watch("verifying", 0, 0)
    with Session(bound, info={IN_SESSION: Signing(trust=trust)}) as session:
        return verification.verify(session)


def _verified(archive: Archive, trust: Trust | None, watch: Watch) -> Manifest:
    manifest = archive.manifest
    archive.require_signature(trust)
    if manifest.revision not in database.revisions():
        raise InvalidBackup(
            f"The backup has the schema {manifest.revision}, which this program does not know.",
            "A newer release made it: upgrade this program.",
        )
    archive.require_intact(_counting(watch, "the file", sum(member.rows for member in manifest.members)))
    return manifest


def _require_empty(connection: Connection) -> None:
    names = [table.name for table in tables.tables(connection) if table.name not in tables.MADE_BY_MIGRATION]
    _refuse_filled(tables.filled(tables.raw(connection), names))


def _refuse_filled(names: list[str]) -> None:
    if names:
        raise NotEmpty(
            f"The database already holds rows in {', '.join(names)}.",
            "Restore into an empty database: another MELO_HOME, or a new one named by MELO_DATABASE_URL.",
        )


def _bring_to(connection: Connection, revision: str) -> None:
    """Migrate the database to the backup's revision; the database is empty, so a downgrade loses nothing."""
    known, state = database.revisions(), database.schema_state(connection)
    if state.revision is not None and state.revision not in known:
        state.require_current()  # raises: a newer release created the schema
    if state.revision is not None and known.index(state.revision) > known.index(revision):
        database.downgrade(connection, revision)
    else:
        database.upgrade(connection, revision)


def _load(connection: Connection, archive: Archive, watch: Watch) -> None:
    """Load every row, in the connection's transaction."""
    manifest, raw = archive.manifest, tables.raw(connection)
    expected = {table.name: table.columns for table in tables.tables(connection)}
    names = list(expected)
    members = [member for member in manifest.members if member.table not in tables.LEFT_OUT]
    counters = sorted(state.name for state in tables.sequences(raw, names))
    if expected != {member.table: member.columns for member in members} or counters != sorted(
        state.name for state in manifest.sequences
    ):
        raise InvalidBackup(
            f"Its tables do not match the schema {manifest.revision}.", "It was not made by this program."
        )
    tables.set_triggers(raw, names, enabled=False)
    _refuse_filled(tables.filled(raw, [name for name in names if name not in tables.MADE_BY_MIGRATION]))
    for member in members:
        if member.table in tables.MADE_BY_MIGRATION:
            tables.clear(raw, member.table)
        count = _counting(watch, member.table, member.rows)
        with _refusals_of(member.name):
            tables.fill(raw, member, archive.parts(member, count))
    for state in manifest.sequences:
        with _refusals_of(f"the counter {state.name}"):
            tables.set_sequence(raw, state)
    tables.set_triggers(raw, names, enabled=True)


@contextmanager
def _refusals_of(name: str) -> Iterator[None]:
    """Turn the database's refusal of content into InvalidBackup, which quotes no row."""
    try:
        yield
    except psycopg.Error as error:
        quote_no_rows(error)
        detail = first_line(error)
        raise InvalidBackup(
            f"The database rejects {name}: {detail}.", "Nothing was restored. Take another copy of the backup."
        ) from error


def _counting(watch: Watch, name: str, total: int) -> Callable[[int], None]:
    """Return a function that adds up the rows of each part, and reports the sum to watch."""
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        watch(name, done, total)

    watch(name, 0, total)
    return count
