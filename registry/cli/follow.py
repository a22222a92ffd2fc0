"""Following a batch's job on the terminal until it is applied or has failed."""

import time
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from registry.cli.errors import CommandError
from registry.cli.findings import show_findings
from registry.cli.show import visible
from registry.vocabulary import BatchState

if TYPE_CHECKING:
    from registry.cli.invocation import Invocation
    from registry.client import MeloClient
    from registry.edits.schemas import BatchView

POLL_SECONDS = 0.5
COUNTED = {"train": ("done", "total"), "scope": ("calibrated", "calibrate_total"), "check": ("checked", "check_total")}
ENDS = {BatchState.APPLIED, BatchState.REJECTED, BatchState.FAILED}


def follow(call: "Invocation", client: "MeloClient", batch_id: int) -> "BatchView":
    """Return the applied batch, having said what its job found; raise CommandError for one that failed or was rejected.

    Ctrl-C ends the watching, not the job.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    ]
    said = ""
    noted: set[str] = set()
    with Progress(*columns, console=call.err, transient=True) as bars:
        bar = bars.add_task(f"batch {batch_id}", total=None, note="")
        while (batch := client.batch(batch_id)).state not in ENDS:
            if batch.hint and batch.hint != said:
                bars.console.print(Text(batch.hint, style="yellow"))
                said = batch.hint
            for note in notes_of(batch):
                if note not in noted:
                    bars.console.print(Text(note))
                    noted.add(note)
            _show(bars, bar, batch)
            time.sleep(POLL_SECONDS)
    if batch.state is BatchState.APPLIED:
        call.err.print(f"Batch {batch.id} is applied: {batch.collection}@{batch.version}.", markup=False)
        show_findings(call.err, batch)
        return batch
    if batch.state is BatchState.FAILED:
        why = (batch.job and batch.job.error) or "the worker gave no reason"
        raise CommandError(f"Batch {batch.id} failed", why, f"Remove the cause, then: melo batch approve {batch.id}")
    raise CommandError(
        f"Batch {batch.id} was rejected",
        f"{batch.decided_by}: {batch.reason}",
        "Submit it anew once it is right.",
    )


def notes_of(batch: "BatchView") -> list[str]:
    """What the worker had to say while it worked, such as how much memory it takes."""
    progress: dict[str, Any] = (batch.job and batch.job.progress) or {}
    return [visible(note) for note in progress.get("notes", ())]


def _show(bars: Progress, bar: TaskID, batch: "BatchView") -> None:
    progress: dict[str, Any] = (batch.job and batch.job.progress) or {}
    stage = str(progress.get("stage", batch.state.value))
    done, total = (progress.get(name) for name in COUNTED.get(stage, ("", "")))
    counted = isinstance(done, int) and isinstance(total, int)
    bars.update(
        bar,
        description=f"batch {batch.id}: {stage}",
        completed=done if counted else 0,
        total=total if counted else None,
        note=f"{done}/{total}" if counted else "",
    )
