"""The command `melo version export`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.versions import group_of
from worker.record import record_of


def register(app: typer.Typer) -> None:
    """Add `export` to the group `version`."""
    add_command(group_of(app), export, "melo version export facts@17 facts-17 --activated")


def export(
    call: Invocation,
    version: Annotated[str, typer.Argument(metavar="COLLECTION@VERSION", help="@3, @production or @latest.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write: a new or an empty one.")],
    activated: Annotated[
        bool,
        typer.Option(
            "--activated",
            help="Write activated LoRA, which PEFT and llama.cpp apply from the last prompt token on; vLLM refuses it.",
        ),
    ] = False,
) -> None:
    """Write a version as PEFT adapters with its index, for PEFT, vLLM or llama.cpp.

    FOLDER/README.md says how to load it. It holds the edits' texts, and `melo edit erase` does not reach it: keep it as
    you keep the registry.
    """
    from registry.versions.reading import resolve
    from worker.export.folder import require_empty

    require_empty(folder)
    with record_of(call) as sessions:
        with sessions() as session:
            found = resolve(session, version)
        name = f"{found.collection.name}@{found.number or 'base'}"
        with call.err.status("starting"):
            from melo_core.errors import MeloError
            from worker.conversion_line import line_on
            from worker.export.writing import write_version
            from worker.model_cache import ModelCache

            model_cache = ModelCache(call.settings.cache, call.settings.dtype, converting=line_on(call.err))
        try:
            with _bar(call) as watch:
                written = write_version(
                    sessions, model_cache, found.collection.id, found.number, folder, activated, watch
                )
        except MeloError as error:
            raise CommandError(f"{name} cannot be exported", str(error)) from None

    def show() -> None:
        call.out.print(
            f"{name}: {_counted(written.edits, 'edit')}, {_counted(written.adapters, 'adapter')}, "
            f"{written.bytes / 1e6:,.1f} MB: {folder}"
        )
        if written.ordinary:
            count = _counted(len(written.ordinary), "adapter")
            call.out.print(f"Ordinary LoRA: {count} of completions, whose prompts have no fixed last token.")

    call.emit({"version": name, "folder": str(folder), **written.as_json()}, show)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


@contextmanager
def _bar(call: Invocation) -> "Iterator[Callable[[int, int], None]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=call.err, transient=True) as bars:
        bar = bars.add_task("", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
