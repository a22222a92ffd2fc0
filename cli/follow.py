"""Following a batch's preflight and training on the terminal until it is applied or has failed."""

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.errors import CommandError
from cli.findings import show_findings
from cli.preflight import is_in_preflight, show_preflight
from cli.show import duration, visible
from registry.base.vocabulary import BatchState, JobKind

if TYPE_CHECKING:
    from cli.invocation import Invocation
    from registry.batches.schemas import BatchProgress, BatchView
    from registry.jobs.schemas import Progress as JobProgress


def follow(call: "Invocation", batch_id: int) -> "BatchView":
    """Return the applied batch, having printed its job's findings; raise CommandError for any other outcome.

    What the preflight found is shown when it ends, and the decision waited for. Ctrl-C ends the watching, not the job.
    """
    try:
        return _follow(call, batch_id)
    except KeyboardInterrupt:
        call.err.print(f"Batch {batch_id} goes on: `melo batch show {batch_id} --watch` follows it.")
        raise


def go_on(call: "Invocation", batch: "BatchView", *, approve: bool, wait: bool, quiet: bool = False) -> "BatchView":
    """Approve and follow a newly submitted batch, if asked, and say what it waits for; return its final view.

    quiet: do not say it.
    """
    if approve:
        batch = call.client.approve(batch.id)
    if wait:
        return follow(call, batch.id)
    if not quiet:
        call.say(f"{approved(batch) if approve else ''} {batch.waits_for}".strip())
    return batch


def _follow(call: "Invocation", batch_id: int) -> "BatchView":
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    ]
    said = ""
    noted: set[str] = set()
    shown = told_to_wait = False
    with Progress(*columns, console=call.err, transient=True) as bars:
        bar = bars.add_task(f"batch {batch_id}", total=None, note="")
        seen = None
        for now in call.client.follow(batch_id):
            if (at := (now.state, now.waits_for, now.job, now.attempt)) != seen:  # everything else is only progress
                batch, seen = call.client.batch(batch_id), at
            if batch.state.is_over:
                break
            for note in _notes(now.progress):
                if note not in noted:
                    bars.console.print(Text(note))
                    noted.add(note)
            if not shown and batch.preflight and batch.preflight.report is not None and batch.job is None:
                show_preflight(bars.console, batch)
                shown = True
            if batch.waits_for and batch.waits_for != said:
                bars.console.print(Text(batch.waits_for, style="yellow"))
                said = batch.waits_for
            if not told_to_wait and batch.state is BatchState.SUBMITTED and not is_in_preflight(batch):
                bars.console.print(Text("This command waits for the decision too; Ctrl-C ends the waiting alone."))
                told_to_wait = True
            _show(bars, bar, now, is_in_preflight(batch))
    if batch.state is BatchState.APPLIED:
        call.err.print(f"Batch {batch.id} is applied: {batch.collection}@{batch.version}.")
        show_findings(call.err, batch)
        return batch
    if batch.state is BatchState.FAILED:
        why = (batch.job and batch.job.error) or "the worker gave no reason"
        raise CommandError(f"Batch {batch.id} failed", why, f"Fix the cause, then: melo batch approve {batch.id}")
    if batch.state is BatchState.CANCELLED:
        raise CommandError(
            f"Batch {batch.id} was cancelled",
            f"{batch.decided_by}: {batch.reason}",
            f"None of it is applied. To apply it after all: melo batch approve {batch.id}",
        )
    raise CommandError(
        f"Batch {batch.id} was rejected",
        f"{batch.decided_by}: {batch.reason}",
        "Correct it, and submit it again.",
    )


def approved(batch: "BatchView") -> str:
    """Describe the result of an approval."""
    if batch.state is BatchState.SUBMITTED:
        return f"Batch {batch.id} has {batch.approvals_counted} of {batch.approvals_needed} approvals."
    without = f", without edit {', '.join(map(str, batch.declined))}" if batch.declined else ""
    return f"Batch {batch.id} is approved{without}."


def notes_of(batch: "BatchView") -> list[str]:
    """What the worker had to say while it trained, or was at the preflight, such as how much memory it takes."""
    job = batch.job or batch.preflight
    return _notes(job.progress if job else None)


def _notes(progress: "JobProgress | None") -> list[str]:
    return [visible(note) for note in (progress.notes if progress else ())]


def _show(bars: Progress, bar: TaskID, now: "BatchProgress", in_preflight: bool) -> None:
    at = now.progress
    stage = at.stage if at and at.stage else now.state.value
    bars.update(
        bar,
        description=f"batch {now.id}: {'preflight: ' if in_preflight and now.kind is JobKind.PREFLIGHT else ''}{stage}",
        completed=(at and at.done) or 0,
        total=at.total if at else None,
        note=_note(at) if at and at.total is not None else "",
    )


def _note(at: "JobProgress") -> str:
    """Say how much is done; for a training also the remaining loss, and the time left."""
    counted = f"{at.done}/{at.total}"
    if at.stage != "train":
        return counted
    said = [
        f"{counted} blocks",
        *([] if at.loss is None else [f"loss {at.loss:.3g}"]),
        *([] if at.seconds_left is None else [f"{duration(at.seconds_left)} left"]),
    ]
    return ", ".join(said)
