"""`melo job`: preflights and trainings, and all that is kept of one."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import add_command, add_group
from cli.invocation import Invocation
from cli.show import duration, fields, table
from registry.base.vocabulary import JobKind, JobState

if TYPE_CHECKING:
    from rich.console import Console

    from registry.jobs.schemas import JobRecord

GROUP = "job"
CURVE_WIDTH = 60
BARS = "▁▂▃▄▅▆▇█"

JobNumber = Annotated[int, typer.Argument(metavar="JOB", min=1, help="The job's number, as `melo job list` shows it.")]


def register(app: typer.Typer) -> None:
    shown = "melo job list --collection facts --state failed"
    group = add_group(app, GROUP, "Jobs: the preflights and trainings of batches.", shown)
    add_command(group, list_, shown)
    add_command(group, show, "melo job show 7 --curve")


def group_of(app: typer.Typer) -> typer.Typer:
    """Return the group, so that other packages can add to it."""
    return next(each.typer_instance for each in app.registered_groups if each.name == GROUP and each.typer_instance)


def list_(
    call: Invocation,
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="Only those of this collection.")] = None,
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only preflights, or only trainings.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """List preflights and trainings, newest first."""
    found = call.client.jobs(collection=collection, state=state, kind=kind, limit=limit)
    columns = ["job#", "collection", "batch#", "kind", "state", "edits#", "attempt#", "queued", "took", "worker", "why"]
    rows = [
        [each.id, each.collection, each.batch_id, each.kind.value, each.state.value, each.edit_count,
         each.attempt, each.created_at, _between(each.started_at, each.finished_at), each.worker,
         each.error and each.error.splitlines()[0][:100]]
        for each in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="No jobs."))


def show(
    call: Invocation,
    job: JobNumber,
    curve: Annotated[bool, typer.Option("--curve", help="Draw the loss over time.")] = False,
) -> None:
    """Show everything recorded about a job: settings, seed, libraries, device, timings, loss and memory."""
    found = call.client.job(job)
    call.emit(found, lambda: _show(call.out, found))
    if curve:
        call.say(drawn(found.loss_curve or []))


def drawn(curve: Sequence[Sequence[float | None]], width: int = CURVE_WIDTH) -> str:
    """Draw the loss over time as one line of bars, on a logarithmic scale. curve: seconds and loss (None: diverged)."""
    points = [(point[0] or 0.0, point[1]) for point in curve if point[1] is not None and point[1] > 0]
    if not points:
        return "No loss was recorded."
    end = max(seconds for seconds, _ in points)
    columns: list[list[float]] = [[] for _ in range(width)]
    for seconds, loss in points:
        columns[min(width - 1, int(width * seconds / end) if end else 0)].append(math.log10(loss))
    means = [sum(each) / len(each) if each else None for each in columns]
    low, high = (pick(mean for mean in means if mean is not None) for pick in (min, max))
    shown = means[0] or high
    bars = ""
    for mean in means:
        shown = shown if mean is None else mean  # repeat the mean while no other was reported
        bars += BARS[_level(shown, low, high)]
    first, last = points[0][1], points[-1][1]
    return f"loss {first:.3g} {bars} {last:.3g} after {end:.1f} s (logarithmic)"


def _level(value: float, low: float, high: float) -> int:
    return round((value - low) / (high - low) * (len(BARS) - 1)) if high > low else 0


def _between(start: datetime | None, end: datetime | None) -> str | None:
    if start is None or end is None:
        return None
    seconds = (end - start).total_seconds()
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _pairs(values: dict[str, Any] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((values or {}).items()))


def _show(console: "Console", job: "JobRecord") -> None:
    memory = job.peak_memory_bytes
    fields(
        console,
        [
            ("job", job.id),
            ("collection", job.collection),
            ("batch", job.batch_id),
            ("kind", job.kind.value),
            ("state", job.state.value),
            ("waits for", job.waits_for),
            ("not before", job.not_before),
            ("error", job.error),
            ("priority", job.priority.value),
            ("deadline", job.deadline),
            ("attempt", job.attempt),
            ("queued", job.created_at),
            ("begun", job.started_at),
            ("ended", job.finished_at),
            ("worker", job.worker),
            ("device", job.device),
            ("libraries", _pairs(job.libraries)),
            ("seed", job.seed),
            ("settings", _pairs(job.settings)),
            ("trained in one go", ", ".join(map(str, job.trained_together or []))),
            ("stage", job.progress.stage if job.progress and job.state is JobState.RUNNING else None),
            ("seconds", _pairs(job.timings)),
            ("loss at the end", _last_loss(job.loss_curve)),
            ("peak memory", f"{memory / 2**20:,.0f} MiB" if memory else None),
            ("notes", "\n".join(job.progress.notes) if job.progress else None),
        ],
    )


def _last_loss(curve: Sequence[Sequence[float | None]] | None) -> float | None:
    return next((point[1] for point in reversed(curve or []) if point[1] is not None), None)
