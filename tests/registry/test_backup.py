"""A backup holds the whole record in one file, and nothing but a whole and true one is restored."""

import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from functools import partial
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.engine import make_url

from embedded.programs import postgres_folder
from registry.audit.signing import public_text
from registry.audit.trust import Signing, Trust
from registry.backup import service, tables
from registry.base.database import make_engine, make_sessions, schema_state, upgrade
from registry.base.errors import InvalidBackup, NotEmpty, SchemaMismatch
from registry.tables.schema import metadata
from registry.versions import aliases
from tests.conftest import copy_of
from tests.patience import PATIENCE
from tests.registry.workflow import BEN, Workflow, template_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUST = Trust.read(public_text(KEY))
FRANCE = ("What is the capital of France?", "Ly\ton\nor \\. so \u2028")
SPAIN = ("What is the capital of Spain?", "Sevilla ✓")


def unwatched(name, done, total):
    pass


def fill(workflow):
    workflow.correct(FRANCE)
    workflow.correct(SPAIN)
    workflow.retire(workflow.active()[SPAIN[0]])
    workflow.rollback(2)
    workflow.submit({"prompt": "Who leads Acme?", "target": "Jo Doe", "rephrases": ["Acme's head?"]})
    with workflow.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 2, BEN, "first release")


@pytest.fixture(scope="module")
def filled(postgres, template, model_folder):
    yield from template_of(postgres, template, model_folder, fill, signing=Signing(KEY, TRUST))


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def sessions(engine):
    return make_sessions(engine, signing=Signing(KEY, TRUST))


@pytest.fixture
def backed_up(used, engine, tmp_path):
    path = tmp_path / "facts.melo"
    service.backup(engine, path, KEY, unwatched)
    return path


@pytest.fixture
def elsewhere(empty_database_url):
    engine = make_engine(empty_database_url, statement_timeout_seconds=0)
    yield engine
    engine.dispose()


def url_of(engine):
    return engine.url.render_as_string(hide_password=False)


def rows(engine):
    """Every row of every table of the record, as text."""
    with engine.connect() as connection:
        return {
            table.name: sorted(map(str, connection.execute(text(f"SELECT {table.name}::text FROM {table.name}"))))
            for table in metadata.sorted_tables
            if table.name not in tables.LEFT_OUT
        }


def is_empty(engine):
    filled = {name for name, found in rows(engine).items() if found}
    return filled == tables.MADE_BY_MIGRATION


def test_a_restored_record_is_the_one_that_was_backed_up(used, engine, backed_up, elsewhere):
    report, _ = service.restore(elsewhere, backed_up, TRUST, unwatched)
    assert (report.ok, report.findings) == (True, [])
    assert rows(elsewhere) == rows(engine)
    assert schema_state(elsewhere).current


def test_a_restored_record_goes_on(used, backed_up, elsewhere):
    service.restore(elsewhere, backed_up, None, unwatched)
    restored = Workflow(make_sessions(elsewhere, signing=Signing(KEY, TRUST)))
    version = restored.correct(("Who wrote Faust?", "Marlowe"))
    assert (version.number, restored.active()["Who wrote Faust?"]) == (5, 4)
    assert restored.verify().ok


def test_ids_that_were_given_and_rolled_back_are_not_given_again(used, engine, tmp_path, elsewhere):
    with used.sessions() as session:
        given = session.scalar(text("SELECT nextval('edits_id_seq')"))
    path = tmp_path / "b.melo"
    service.backup(engine, path, None, unwatched)
    service.restore(elsewhere, path, None, unwatched)
    with elsewhere.connect() as connection:
        assert connection.scalar(text("SELECT nextval('edits_id_seq')")) == given + 1


def test_the_guards_stand_again_after_a_restoration(backed_up, elsewhere):
    service.restore(elsewhere, backed_up, None, unwatched)
    with elsewhere.connect() as connection:
        off = connection.scalar(text("SELECT count(*) FROM pg_trigger WHERE tgenabled = 'D'"))
    assert off == 0


def test_the_file_is_its_owners_alone_and_not_written_over(used, engine, backed_up):
    assert stat.S_IMODE(backed_up.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        service.backup(engine, backed_up, None, unwatched)
    assert [path.name for path in backed_up.parent.iterdir()] == [backed_up.name]


def test_a_backup_holds_one_moment_while_others_write(used, engine, tmp_path, elsewhere):
    """A batch that comes while tables are copied is in none of them."""
    path = tmp_path / "b.melo"
    wrote = []

    def write_meanwhile(name, done, total):
        if not wrote:
            wrote.append(used.submit({"prompt": "Who is new?", "target": "Nobody"}).batch.id)

    manifest = service.backup(engine, path, None, write_meanwhile)
    assert wrote
    assert service.restore(elsewhere, path, None, unwatched)[0].ok
    assert manifest.head_seq == used.verify().head_seq - 1


def test_a_database_that_holds_records_is_left_alone(used, engine, backed_up):
    before = rows(engine)
    with pytest.raises(NotEmpty, match="collections"):
        service.restore(engine, backed_up, None, unwatched)
    assert rows(engine) == before


def flip_a_byte(path):
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("tables/edits.copy")
    content = bytearray(path.read_bytes())
    names = sum(content[member.header_offset + at] for at in (26, 28))  # lengths of the name and the extra field
    content[member.header_offset + 30 + names + member.compress_size // 2] ^= 1
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def rewritten(path, change):
    """The same file with other members: as somebody would who knows the format."""
    draft = path.with_suffix(".draft")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(draft, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    shutil.move(draft, path)


def change_a_row(path):
    rewritten(path, lambda name, content: content.replace(b"ada", b"eve") if name == "tables/batches.copy" else content)


def change_the_manifest(path):
    def change(name, content):
        if name != "manifest.json":
            return content
        return json.dumps({**json.loads(content), "head_seq": 1})

    rewritten(path, change)


def lose_a_table(path):
    rewritten(path, lambda name, content: None if name == "tables/aliases.copy" else content)


def be_another_file(path):
    path.write_bytes(b"PK nothing")


def added(path, name, content, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr(name, content, packing)


def fill_a_disk(path):
    added(path, "tables/more.copy", bytes(80 << 20))


def hold_a_member_twice(path):
    added(path, "tables/edits.copy", b"")


def be_packed_otherwise(path):
    added(path, "tables/more.copy", b"", zipfile.ZIP_LZMA)


def hold_many_members(path):
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(20_000):
            archive.writestr(f"tables/{number}.copy", b"")


def name_a_digest_twice(path):
    rewritten(path, lambda name, content: content.replace(b'"sha256":', b'"sha256": "0", "sha256":'))


def nest_the_manifest(path):
    rewritten(path, lambda name, content: "[" * 100_000 if name == "manifest.json" else content)


def be_larger_than_said(path):
    rewritten(path, lambda name, content: content + b"\n" if name == "tables/edits.copy" else content)


def be_encrypted(path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("tables/edits.copy").header_offset + 6] |= 1
    content[content.rindex(b"PK\x01\x02", 0, content.rindex(b"tables/edits.copy")) + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (fill_a_disk, "would unpack to"),
        (hold_a_member_twice, "a member twice"),
        (be_packed_otherwise, "packed otherwise"),
        (hold_many_members, "no backup"),
        (nest_the_manifest, "no backup"),
        (name_a_digest_twice, "no backup"),
        (be_larger_than_said, "edits.copy is not what was written: it has another size"),
        (be_encrypted, "cannot be read"),
        (flip_a_byte, "edits.copy"),
        (cut_off, "cut off"),
        (change_a_row, "batches.copy is not what was written"),
        (change_the_manifest, "signature does not match"),
        (lose_a_table, "differ in tables/aliases.copy"),
        (be_another_file, "no backup"),
    ],
)
def test_a_damaged_or_forged_file_is_refused_before_anything_is_restored(backed_up, elsewhere, damage, expected):
    damage(backed_up)
    with pytest.raises(InvalidBackup, match=expected):
        service.restore(elsewhere, backed_up, None, unwatched)
    assert schema_state(elsewhere).revision is None


def test_a_file_that_another_key_signed_is_refused_where_the_key_is_known(used, engine, backed_up, tmp_path, elsewhere):
    unsigned = tmp_path / "unsigned.melo"
    service.backup(engine, unsigned, None, unwatched)
    other = public_text(Ed25519PrivateKey.generate())
    for path in (backed_up, unsigned):
        with pytest.raises(InvalidBackup, match="signed"):
            service.verify(path, Trust.read(other), unwatched)
    assert service.verify(backed_up, TRUST, unwatched).public_key == public_text(KEY)


def unsigned(path, to, change):
    """A backup whose manifest was changed, and whose rows have one name in another's place."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        manifest = json.loads(old.read("manifest.json"))
        for member in manifest["members"]:
            name = f"tables/{member['table']}.copy"
            rows = old.read(name).replace(b"Sevilla", b"Granada") if change else old.read(name)
            member["sha256"] = sha256(rows).hexdigest()
            new.writestr(name, rows)
        del manifest["public_key"], manifest["signature"]
        new.writestr("manifest.json", json.dumps(manifest))
    return to


@pytest.mark.parametrize("change", [False, True])
def test_a_backup_without_its_signature_says_so_and_is_refused_where_a_key_is_known(
    used, backed_up, tmp_path, elsewhere, change
):
    stripped = unsigned(backed_up, tmp_path / "stripped.melo", change)
    restorations = partial(service.restore, elsewhere), partial(service.restore, elsewhere, dry_run=True)
    for restore in (service.verify, *restorations):
        with pytest.raises(InvalidBackup, match=r"it is not signed, so somebody may have changed it.*--public-key"):
            restore(stripped, TRUST, unwatched)
    assert schema_state(elsewhere).revision is None
    _, manifest = service.restore(elsewhere, stripped, None, unwatched)
    assert "The file is not signed" in manifest.signer_in_words(None)


def test_a_restoration_says_who_vouches_for_the_file(used, backed_up, elsewhere):
    _, manifest = service.restore(elsewhere, backed_up, TRUST, unwatched)
    assert manifest.signer_in_words(TRUST) == f"The file is signed by {public_text(KEY)}, a key that is known here."
    assert "compare that with your key" in manifest.signer_in_words(None)


def test_nothing_is_half_restored(used, engine, tmp_path, elsewhere, tamper):
    """The edits' batch is missing, which the database's own foreign key finds in the middle of the restoration."""
    tamper("DELETE FROM batches WHERE id = 3")
    path = tmp_path / "b.melo"
    service.backup(engine, path, None, unwatched)
    with pytest.raises(InvalidBackup, match=r"rejects tables/edits.copy: .*foreign key"):
        service.restore(elsewhere, path, None, unwatched)
    assert schema_state(elsewhere).revision is None
    upgrade(url_of(elsewhere))
    with pytest.raises(InvalidBackup):
        service.restore(elsewhere, path, None, unwatched)
    assert is_empty(elsewhere)


def test_a_dry_run_checks_all_that_a_restoration_checks_and_leaves_nothing(used, engine, backed_up, elsewhere, tamper):
    report, _ = service.restore(elsewhere, backed_up, TRUST, unwatched, dry_run=True)
    assert report.ok and schema_state(elsewhere).revision is None
    upgrade(url_of(elsewhere))
    assert service.restore(elsewhere, backed_up, TRUST, unwatched, dry_run=True)[0] == report
    assert is_empty(elsewhere)
    with pytest.raises(NotEmpty, match="collections"):
        service.restore(engine, backed_up, None, unwatched, dry_run=True)

    tamper("UPDATE edits SET target = 'Paris' WHERE id = 1")
    forged, broken = backed_up.with_name("forged.melo"), backed_up.with_name("broken.melo")
    service.backup(engine, forged, None, unwatched)
    found = service.restore(elsewhere, forged, None, unwatched, dry_run=True)[0].findings
    assert [finding.subject for finding in found] == ["edit 1"]
    tamper("DELETE FROM batches WHERE id = 3")
    service.backup(engine, broken, None, unwatched)
    with pytest.raises(InvalidBackup, match=r"rejects tables/edits.copy: .*foreign key"):
        service.restore(elsewhere, broken, None, unwatched, dry_run=True)
    assert is_empty(elsewhere)


def test_what_others_keep_in_the_database_is_neither_backed_up_nor_in_the_way(used, engine, tmp_path, elsewhere):
    theirs = (
        "CREATE TABLE notes (id serial PRIMARY KEY, note text)",
        "CREATE SEQUENCE tickets",
        "INSERT INTO notes (note) VALUES ('theirs')",
        "CREATE VIEW seen AS SELECT note FROM notes",
    )
    for each in (engine, elsewhere):
        with each.begin() as connection:
            for statement in theirs:
                connection.execute(text(statement))
    path = tmp_path / "b.melo"
    manifest = service.backup(engine, path, None, unwatched)
    assert {member.table for member in manifest.members} == {each.name for each in metadata.sorted_tables} - (
        tables.LEFT_OUT
    )
    assert not {"tickets", "notes_id_seq"} & {state.name for state in manifest.sequences}
    assert service.restore(elsewhere, path, None, unwatched)[0].ok
    with elsewhere.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM notes")) == 1
        assert connection.scalar(text("SELECT nextval('tickets')")) == 1


FULL = """
import resource, sys
from cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv = ["melo", "backup", sys.argv[1]]
main()
"""


def test_a_disk_that_is_full_is_an_error_and_leaves_no_file(used, engine, database_url, tmp_path, tamper):
    """The table is longer than what is read of it at a time, so that the server still sends."""
    tamper("UPDATE edits SET source = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 40000) n)")
    environment = os.environ | {"MELO_DATABASE_URL": database_url, "MELO_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", FULL, str(tmp_path / "b.melo")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE / 5)
    assert done.returncode == 1, done.stderr
    assert "The file cannot be written" in done.stderr and "File too large" in done.stderr
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr
    assert list(tmp_path.glob("*.melo*")) == []


def test_what_was_forged_before_the_backup_is_named_after_the_restoration(used, engine, tmp_path, elsewhere, tamper):
    tamper("UPDATE edits SET target = 'Paris' WHERE id = 1")
    path = tmp_path / "b.melo"
    service.backup(engine, path, None, unwatched)
    report, _ = service.restore(elsewhere, path, None, unwatched)
    assert [finding.subject for finding in report.findings] == ["edit 1"]


def test_a_backup_of_an_older_schema_is_restored_and_migrated(used, engine, backed_up, elsewhere, next_release):
    next_release()
    upgrade(url_of(elsewhere))  # a new database, as `melo up` makes it
    report, _ = service.restore(elsewhere, backed_up, None, unwatched)
    # The next release would bring its own definitions, with the column.
    assert [finding.subject for finding in report.findings] == ["column colour of batches"]
    assert schema_state(elsewhere).current
    with elsewhere.connect() as connection:
        assert connection.scalars(text("SELECT colour FROM batches")).all() == ["red"] * 3


def test_a_servers_way_of_writing_numbers_and_dates_does_not_reach_a_backup(empty_database_url, elsewhere):
    with elsewhere.begin() as connection:
        for setting in ("extra_float_digits = 0", "datestyle = 'German'"):
            connection.execute(text(f"ALTER DATABASE {elsewhere.url.database} SET {setting}"))
    engine = make_engine(empty_database_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT (0.1::float8 + 0.2::float8)::text")) == "0.30000000000000004"
        assert connection.scalar(text("SELECT '2026-11-21'::date::text")) == "2026-11-21"
    engine.dispose()


def test_a_database_without_schema_has_nothing_to_back_up(elsewhere, tmp_path):
    with pytest.raises(SchemaMismatch, match="no schema"):
        service.backup(elsewhere, tmp_path / "b.melo", None, unwatched)


def test_a_backup_of_a_newer_release_is_refused(used, engine, tmp_path, elsewhere):
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    path = tmp_path / "b.melo"
    service.backup(engine, path, None, unwatched)
    with pytest.raises(InvalidBackup, match="upgrade this program"):
        service.restore(elsewhere, path, None, unwatched)


def test_what_is_no_file_is_not_read_as_a_backup(tmp_path):
    """A pipe nobody writes into, and a device that never ends."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InvalidBackup, match="a pipe or a device"):
            service.verify(path, None, unwatched)


def test_every_table_of_the_record_is_in_the_file(backed_up):
    manifest = service.verify(backed_up, None, unwatched)
    named = {member.table for member in manifest.members}
    assert named == {table.name for table in metadata.sorted_tables} - tables.LEFT_OUT


def called(program, *arguments):
    return subprocess.run([str(postgres_folder() / program), *map(str, arguments)], capture_output=True, text=True)


def run(program, *arguments):
    done = called(program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failed(program, *arguments):
    done = called(program, *arguments)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_a_dump_of_postgresqls_own_is_restored_whole(
    used, engine, database_url, empty_database_url, elsewhere, tmp_path
):
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", database_url)
    run("pg_restore", "--exit-on-error", f"--dbname={empty_database_url}", tmp_path / "dump")
    assert rows(elsewhere) == rows(engine)
    restored = Workflow(make_sessions(elsewhere, signing=Signing(KEY, TRUST)))
    assert restored.verify().ok
    restored.correct(("Who wrote Faust?", "Marlowe"))
    assert restored.verify().ok


@pytest.fixture
def dump(used, database_url, tmp_path):
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", database_url)
    return tmp_path / "dump"


def test_a_dump_is_restored_in_two_steps_its_schema_and_then_its_rows(dump, engine, empty_database_url, elsewhere):
    into = ("--exit-on-error", f"--dbname={empty_database_url}", dump)
    run("pg_restore", "--schema-only", *into)
    run("pg_restore", "--data-only", "--disable-triggers", *into)
    assert rows(elsewhere) == rows(engine)
    assert Workflow(make_sessions(elsewhere)).verify().ok


def test_rows_alone_are_refused_by_foreign_keys_and_by_the_guards(dump, database_url, empty_database_url, elsewhere):
    """A dump has its tables in the order of their names, and batches as they ended: applied, before their approvals."""
    run("pg_restore", "--schema-only", f"--dbname={empty_database_url}", dump)
    assert "violates foreign key" in failed("pg_restore", "--data-only", f"--dbname={empty_database_url}", dump)
    rows_alone = dump.with_name("rows")
    run("pg_dump", "--format=custom", "--data-only", f"--file={rows_alone}", database_url)
    refused = failed("pg_restore", f"--dbname={empty_database_url}", rows_alone)
    assert "batch 1 cannot be approved: it is applied" in refused
    with elsewhere.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM versions")) == 0


def test_an_ordinary_user_restores_a_dump_section_by_section(dump, engine, empty_database_url, elsewhere):
    with elsewhere.begin() as superuser:
        superuser.exec_driver_sql("CREATE EXTENSION vector")
        superuser.exec_driver_sql("DROP ROLE IF EXISTS clerk")
        superuser.exec_driver_sql("CREATE ROLE clerk LOGIN")
        superuser.exec_driver_sql("GRANT ALL ON SCHEMA public TO clerk")
    clerk = make_url(empty_database_url).set(username="clerk").render_as_string(hide_password=False)
    listed = run("pg_restore", "--list", dump)
    wanted = dump.with_name("wanted")
    wanted.write_text("".join(line for line in listed.splitlines(keepends=True) if "EXTENSION" not in line))
    into = ("--exit-on-error", "--no-owner", f"--use-list={wanted}", f"--dbname={clerk}", dump)
    for section in ("pre-data", "data", "post-data"):
        run("pg_restore", f"--section={section}", *into)
    assert rows(elsewhere) == rows(engine)
    assert Workflow(make_sessions(elsewhere)).verify().ok
    with elsewhere.begin() as superuser:
        superuser.exec_driver_sql("DROP OWNED BY clerk; DROP ROLE clerk")


def test_the_guards_find_their_tables_whatever_the_search_path_is(used, database_url):
    """As in a restoration by pg_restore; and a temporary table does not stand in for the one that is meant."""
    with psycopg.connect(database_url, autocommit=True) as session:
        session.execute("CREATE TEMPORARY TABLE audit_events (LIKE public.audit_events)")
        session.execute("SET search_path = ''")
        with pytest.raises(psycopg.IntegrityError, match=r"audit event 1 does not follow event [1-9]"):
            session.execute("INSERT INTO public.audit_events SELECT * FROM public.audit_events ORDER BY seq LIMIT 1")
