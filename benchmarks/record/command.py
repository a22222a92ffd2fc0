"""Options of `melo bench registry`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation

SHOWN = "melo bench registry --edits 1000000 --versions 10000 --json registry.json"


def register(bench: typer.Typer) -> None:
    add_command(bench, registry, SHOWN, has_json=False)


def registry(
    call: Invocation,
    edits: Annotated[
        int, typer.Option(min=100, help="Edits in the large collection; at least as many as versions.")
    ] = 100_000,
    versions: Annotated[int, typer.Option(min=20, help="Versions of the large collection.")] = 1_000,
    writers: Annotated[int, typer.Option(min=1, max=1_000, help="Writers at once, in a small collection.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long they write.")] = 60,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Measure the record with synthetic edits, in databases of its own that are dropped at the end.

    They are created on the server that MELO_DATABASE_URL names, else on a temporary one. A million edits take about 4
    GB of disk and half an hour. Status 1 where a figure misses its requirement.
    """
    from benchmarks.record.run import Sizes, run_bench

    if edits < versions:
        raise CommandError("Too few edits", f"{edits} edits cannot fill {versions} versions.", "Give more --edits.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise CommandError("The figures cannot be written", f"{json_file.parent} is no folder.", "Make it first.")
    figures = run_bench(call.err, call.settings.database_url, Sizes(edits, versions, writers, seconds))
    if json_file is not None:
        figures.write(json_file)
    figures.show(call.out)
    if missed := figures.missed():
        raise CommandError(
            "The record is not what it must be",
            "; ".join(missed) + ".",
            "Report it, with the file that --json writes.",
            [{"line": None, "detail": finding} for finding in figures.findings],
        )
