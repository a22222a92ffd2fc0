"""The line that a terminal shows while a model's file is converted, which takes a minute or more, once."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from melo_core.converted import Advance, Converting, untold


def line_on(console: Console) -> Converting:
    """Return what shows a conversion on a terminal; nothing in a log or a pipe."""
    if not console.is_terminal:
        return untold

    @contextmanager
    def converting() -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task("converting the model, once", total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)

    return converting
