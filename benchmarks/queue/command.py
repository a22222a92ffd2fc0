"""Options of `melo bench queue`. Its work is in `run`, imported only when called, since that needs torch."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation

SHOWN = "melo bench queue --rounds 200 --edits 10000 --batches 100 --json queue.json"


def register(bench: typer.Typer) -> None:
    add_command(bench, queue, SHOWN, has_json=False)


def queue(
    call: Invocation,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of faults; 0: none.")] = 200,
    edits: Annotated[int, typer.Option(min=0, help="Edits to measure throughput with; 0: do not measure it.")] = 10_000,
    batches: Annotated[int, typer.Option(min=2, help="Batches that the edits come in.")] = 100,
    idle_seconds: Annotated[float, typer.Option(min=0, help="How long to watch an idle worker; 0: do not.")] = 60,
    seed: Annotated[int, typer.Option(help="Determines the schedule of the faults.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Kill the parts of a stack while they work, and measure what the queue costs.

    Starts its own stack in a temporary folder, with a tiny random model on the CPU, and stops it at the end. 200 rounds
    take about half an hour. Status 1 where something was lost, repeated, left over or not reported.
    """
    from benchmarks.queue.run import Choice, run_bench

    if 0 < edits < batches:
        raise CommandError("Too few edits", f"{edits} edits cannot fill {batches} batches.", "Give more --edits.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise CommandError("The figures cannot be written", f"{json_file.parent} is no folder.", "Make it first.")
    figures = run_bench(call.err, Choice(rounds, edits, batches, seed, idle_seconds))
    if json_file is not None:
        figures.write(json_file)
    figures.show(call.out)
    if missed := figures.missed():
        raise CommandError(
            "The queue is not what it must be",
            "; ".join(missed) + ".",
            "Report it, with the seed and the file that --json writes.",
            [{"line": None, "detail": finding} for finding in figures.findings.all],
        )
