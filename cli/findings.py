"""A job's findings on a batch's edits, for the people who decide on them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from cli.show import visible

if TYPE_CHECKING:
    from rich.console import Console

    from registry.batches.schemas import BatchView
    from registry.jobs.schemas import ChangedAnswer, ConflictView, EditReport

SHOWN = 20


def show_findings(console: "Console", batch: "BatchView") -> None:
    """Print the findings of a batch's training."""
    show_reports(console, batch, (batch.job and batch.job.report) or [])


def show_reports(console: "Console", batch: "BatchView", reports: "Sequence[EditReport]") -> None:
    """Print the reports, the gravest first; edits without findings are left out."""
    said = [
        *(Text(text, style="bold red") for report in reports for text in _changed(report, batch)),
        *(Text(text, style="yellow") for report in reports for text in _not_learned(report, batch)),
        *(Text(text, style="yellow") for report in reports for text in _conflicts(report)),
    ]
    if said:
        before = f"{batch.collection}@{batch.version} is used" if batch.version else f"batch {batch.id} is approved"
        console.print(Text(f"Look at this before {before}:", style="bold"))
    for text in said[:SHOWN]:
        console.print(text)
    if len(said) > SHOWN:
        console.print(f"… and {len(said) - SHOWN} more: melo batch show {batch.id} --json")
    if asked := sum(report.unchanged_asked for report in reports):
        kept = asked - sum(len(report.unchanged_changed) for report in reports)
        console.print(f"{kept} of {asked} prompts that must not change are answered as before.")


def _changed(report: "EditReport", batch: "BatchView") -> Iterator[str]:
    now = "is now" if batch.version else "would be"
    for each in report.unchanged_changed:
        yield visible(
            f"Edit {report.edit_id}: {each.prompt!r} must not change, but {now} answered by {_behind(each)}: "
            f"{each.before!r} → {each.after!r}. {_remedy(each, batch)}"
        )


def _behind(changed: "ChangedAnswer") -> str:
    return "the base model" if changed.by_edit is None else f"edit {changed.by_edit}"


def _remedy(changed: "ChangedAnswer", batch: "BatchView") -> str:
    if changed.by_edit is None:
        return "Submit the correction that answered it again."
    return f"Word it more narrowly, or: {_to_be_rid_of(changed.by_edit, batch)}"


def _to_be_rid_of(edit_id: int, batch: "BatchView") -> str:
    """Return the command that leaves an edit out of its batch, or retires it once the batch is applied."""
    if batch.version:
        return f"melo edit retire {batch.collection} {edit_id} --reason …"
    return f"melo batch approve {batch.id} --except {edit_id}"


def _not_learned(report: "EditReport", batch: "BatchView") -> Iterator[str]:
    after = f"(loss {report.loss} after {report.iterations} steps)"
    if not report.reproduced:
        yield visible(
            f"Edit {report.edit_id} was not learned: with its block the model answers {report.answer!r} {after}. "
            f"Word it otherwise, or: {_to_be_rid_of(report.edit_id, batch)}"
        )
    elif not report.reached:
        yield f"Edit {report.edit_id} did not reach its loss {after}, but the model gives its answer."


def _conflicts(report: "EditReport") -> Iterator[str]:
    for each in report.conflicts:
        yield visible(
            f"Edit {report.edit_id} comes near edit {each.edit_id} ({each.prompt!r}, distance {each.distance:.3f}), "
            f"which has another answer{_forgotten(each)}."
        )


def _forgotten(conflict: "ConflictView") -> str:
    return "" if not conflict.forgotten else "; that edit covers less than before"
