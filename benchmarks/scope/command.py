"""Options of `melo bench scope`. Its work is in `run`, imported only when called, since that needs torch."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.edits.command import settings_given
from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from melo_core.errors import MeloError


def register(bench: typer.Typer) -> None:
    shown = "melo bench scope --pairs scope_pairs.jsonl --facts facts.jsonl --ask ask.jsonl --json scope.json"
    add_command(bench, scope, shown, has_json=False)


def scope(
    call: Invocation,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSONL: edit, query, same (true or false), kind, source.")
    ] = None,
    facts: Annotated[Path | None, typer.Option(metavar="FILE", help="JSONL: prompt, rephrases, unchanged.")] = None,
    ask: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL: text, turns or question; edit (a fact's prompt, or null)."),
    ] = None,
    grow: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Public files: routing against the number of edits.")
    ] = None,
    per_kind: Annotated[int, typer.Option(min=0, help="Most pairs of a kind and source; 0: all.")] = 200,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only pairs that the packaged verifier was not trained on.")
    ] = False,
    typos: Annotated[
        bool, typer.Option("--typos", help="Ask rephrases once more, with one typing error: the kind typo.")
    ] = False,
    preset: Annotated[str, typer.Option(help="Where settings come from: default or paper.")] = "default",
    method: Annotated[str, typer.Option(metavar="JSON", help='Settings over the preset\'s: {"threshold": 0.3}')] = "{}",
    encoder: Annotated[str, typer.Option(help="The sentence encoder that keys come from.")] = "all-minilm-l6-v2",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Measure routing alone, by kind: near misses left alone and rephrases covered. Minutes; no model answers."""
    if (facts is None) != (ask is None):
        raise CommandError("Half a test", "--facts and --ask belong together.", "Give both, or neither.")
    if pairs is None and facts is None and grow is None:
        raise CommandError("Nothing to measure", "No file was given.", "Give --pairs, or --facts and --ask, or --grow.")
    from benchmarks.scope.run import Choice, run_bench

    given = settings_given(method, preset)
    try:
        choice = Choice(pairs, facts, ask, grow, per_kind, held_out, typos, preset, given, encoder, json_file)
        run_bench(call, choice)
    except MeloError as error:
        raise CommandError("The bench cannot run", str(error)) from None
