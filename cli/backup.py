"""`melo backup`, `melo restore`: the whole record as one file, read from and written to the database directly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audit import counted
from cli.commands import add_command
from cli.database import database
from cli.errors import CommandError
from cli.invocation import Invocation

if TYPE_CHECKING:
    from registry.audit.trust import Trust


def register(app: typer.Typer) -> None:
    add_command(app, backup, "melo backup facts-2026-11-21.melo")
    add_command(app, restore, "melo restore facts-2026-11-21.melo")


def backup(
    call: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, which must not exist yet.")],
) -> None:
    """Write the whole record to one file, while the servers keep running.

    It is signed with MELO_SIGNING_KEY, or with the key in MELO_HOME, where there is one.
    """
    from registry.audit import signing
    from registry.backup import service

    settings = call.settings
    key = signing.known_signer(settings)
    try:
        with database(call) as engine, _progress(call) as watch:
            made = service.backup(engine, file, key, watch)
    except FileExistsError:
        raise CommandError("The file already exists", f"{file} was not overwritten.", "Give another name.") from None
    except OSError as error:
        raise CommandError("The file cannot be written", f"{file}: {error.strerror}.") from None
    rows = sum(member.rows for member in made.members)
    signed = f"signed by {made.public_key}" if made.public_key else "not signed: no key is there"
    call.emit(
        made,
        lambda: call.out.print(f"{rows:,} rows up to event {made.head_seq} ({made.head_hash[:12]}), {signed}: {file}"),
    )


def restore(
    call: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `melo backup` wrote.")],
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="File of the keys of which one must have signed it. Default: those known here.", dir_okay=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Restore it, verify the record, and take all of it back.")
    ] = False,
) -> None:
    """Fill an empty database from a backup, and verify the whole record; status 1 if anything differs.

    A dry run does the same in a transaction that it takes back. Where no database is named and none runs, it reads the
    file alone, and compares every digest.
    """
    from registry.audit.trust import Trust, signing_of
    from registry.backup import service

    try:
        given = public_key.read_text() if public_key else None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError("The file cannot be read", f"{public_key}: {error}.") from None
    trust = Trust.read(given) if given else signing_of(call.settings).trust
    if dry_run and not call.has_database:
        _show_file(call, file, trust)
        return
    with database(call) as engine, _progress(call) as watch:
        found, manifest = service.restore(engine, file, trust, watch, dry_run=dry_run)
    call.emit(found)
    call.say(manifest.signer_in_words(trust))
    if not found.ok:
        raise CommandError(
            "The record in it was changed before it was backed up"
            if dry_run
            else "It was restored, but the record in it was changed before it was backed up",
            "\n".join(f"{finding.subject}: {finding.detail}" for finding in found.findings),
            "Compare it with an older backup; do not serve what is named.",
        )
    call.say(f"{'It can be restored' if dry_run else 'Restored'}: {counted(found)}.")
    call.say(f"All as written, up to event {found.head_seq} ({found.head_hash[:12]}).")
    if dry_run:
        call.say("Nothing was restored.")


def _show_file(call: Invocation, file: Path, trust: "Trust | None") -> None:
    from registry.backup import service

    with _progress(call) as watch:
        held = service.verify(file, trust, watch)
    upto = f"up to event {held.head_seq} ({held.head_hash[:12]})"
    call.emit(held, lambda: call.out.print(f"The file is whole: schema {held.revision}, {upto}, of {held.time}."))
    call.say(held.signer_in_words(trust))
    call.say("Nothing was restored. Name an empty database (MELO_DATABASE_URL) to have its rows tried too.")


@contextmanager
def _progress(call: Invocation) -> Iterator[Callable[[str, int, int], None]]:
    """Show a line for each table, with a bar while it is copied."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=call.err, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def watch(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=total or None)
            shown.update(tasks[name], completed=done)

        yield watch
