"""`melo bench`: the group, with one command for each benchmark."""

from importlib.util import find_spec

import typer

from benchmarks.edits import command as edits
from benchmarks.queue import command as queue
from benchmarks.record import command as record
from benchmarks.scope import command as scope
from benchmarks.serving import command as serving
from cli.commands import add_group


def register(app: typer.Typer) -> None:
    """Add the group. Commands that train or ask a model are included only where torch is installed."""
    bench = add_group(app, "bench", "Measure, and compare with what else one would use.", record.SHOWN)
    record.register(bench)
    if find_spec("torch") is not None:
        for command in (edits, queue, scope, serving):
            command.register(bench)
