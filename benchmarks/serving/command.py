"""Options of `melo bench serve`. Its work is in `run`, imported only when called, since that needs torch."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from melo_core.errors import MeloError


def register(bench: typer.Typer) -> None:
    add_command(bench, serve, "melo bench serve --json serve.json", has_json=False)


def serve(
    call: Invocation,
    model: Annotated[str, typer.Option(metavar="NAME", help="The base model.")] = "smollm2-135m-instruct",
    edits: Annotated[int, typer.Option(min=1, help="Edits in the version that is asked out of scope.")] = 10_000,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each measurement; the median counts.")] = 3,
    flips: Annotated[int, typer.Option(min=0, help="Moves of an alias under load; 0: no server is started.")] = 200,
    start_edits: Annotated[
        int, typer.Option(min=0, help="Measure only the start, over a version with so many edits with random keys.")
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Measure serving: tokens per CPU second beside transformers' generate, and answers while an alias moves."""
    from benchmarks.serving.run import run_bench

    try:
        run_bench(call, model, edits, tokens, rounds, flips, start_edits, json_file)
    except MeloError as error:
        raise CommandError("The bench cannot run", str(error)) from None
