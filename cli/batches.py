"""`melo batch`: submitted batches, and the decisions on them."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli import review
from cli.commands import add_command, add_group
from cli.findings import show_findings
from cli.follow import approved, follow, notes_of
from cli.invocation import Invocation
from cli.options import Collection, Reason, Wait
from cli.preflight import SHOWN_EDITS, show_preflight
from cli.show import answer_of, asked_of, fields, table
from cli.warnings import show_warnings
from registry.base.vocabulary import BatchState, Priority

if TYPE_CHECKING:
    from rich.console import Console

    from registry.batches.schemas import BatchView, PolicyChangeView
    from registry.edits.schemas import ApprovalView
    from registry.jobs.schemas import JobView, PreflightView

BatchId = Annotated[int, typer.Argument(metavar="BATCH", min=1, help="The batch's number.")]


def register(app: typer.Typer) -> None:
    group = add_group(
        app, "batch", "Batches: look at them, approve, reject or cancel them.", "melo batch approve 3 --wait"
    )
    add_command(group, list_, "melo batch list facts --state submitted")
    add_command(group, show, "melo batch show 3 --watch")
    add_command(group, approve, "melo batch approve 3 --except 12 --reason 'checked against the source' --wait")
    add_command(group, reject, "melo batch reject 3 --reason 'the source is out of date'")
    add_command(group, cancel, "melo batch cancel 3 --reason 'the wrong file'")
    review.add_to(group)


def list_(
    call: Invocation,
    collection: Collection,
    state: Annotated[BatchState | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """List a collection's batches, newest first."""
    found = call.client.batches(collection, state=state, limit=limit)
    columns = ["batch#", "state", "edits#", "priority", "submitted by", "submitted", "decided by", "message"]
    rows = [
        [each.id, each.state.value, each.edit_count, each.priority.value, each.submitted_by, each.submitted_at,
         each.decided_by, each.message]
        for each in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="No batches."))


def show(
    call: Invocation,
    batch: BatchId,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow its preflight, wait for the decision, and follow its training.")
    ] = False,
) -> None:
    """Show a batch: its edits, what its preflight found, its approvals and training, and what it waits for."""
    found = follow(call, batch) if watch else call.client.batch(batch)
    call.emit(found, lambda: _show(call.out, found, findings=not watch))  # `follow` has shown them


def approve(
    call: Invocation,
    batch: BatchId,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    declined: Annotated[
        list[int] | None,
        typer.Option("--except", metavar="EDIT", min=1, help="Leave this edit out; may be repeated."),
    ] = None,
    wait: Wait = False,
) -> None:
    """Approve a batch, or part of it. After the last approval needed, a worker trains and applies it."""
    found = call.client.approve(batch, reason, declined=declined or [])
    call.say(f"{approved(found)} {'' if wait else found.waits_for}".strip())
    call.emit(follow(call, batch) if wait else found)


def reject(
    call: Invocation,
    batch: BatchId,
    reason: Annotated[str, typer.Option(help="Why; the submitter reads it.")],
) -> None:
    """Reject a batch: it is never trained."""
    found = call.client.reject(batch, reason)
    call.emit(found, lambda: call.out.print(f"Batch {batch} is rejected."))


def cancel(call: Invocation, batch: BatchId, reason: Reason) -> None:
    """Stop an approved batch before it is applied, even during its training. It may be approved again."""
    found = call.client.cancel(batch, reason)
    call.emit(found, lambda: call.out.print(f"Batch {batch} is cancelled: nothing of it is applied."))


def _approval(each: "ApprovalView") -> str:
    without = f", without edit {', '.join(map(str, each.declined))}" if each.declined else ""
    why = f": {each.reason}" if each.reason else ""
    return f"{each.created_at.astimezone():%Y-%m-%d %H:%M:%S} by {each.actor} ({each.role}){without}{why}"


def _policy_change(each: "PolicyChangeView") -> str:
    return f"{each.detail} Changed by {each.by}: {each.reason}"


def _preflight(preflight: "PreflightView") -> str:
    return f"{preflight.state.value}: {preflight.error}" if preflight.error else preflight.state.value


def _on(job: "JobView") -> str:
    """Return the device, and the number format that the model runs in there."""
    return ", ".join(str(each) for each in (job.device, (job.libraries or {}).get("dtype")) if each)


def _show(console: "Console", batch: "BatchView", findings: bool) -> None:
    job = batch.job
    fields(
        console,
        [
            ("batch", batch.id),
            ("collection", batch.collection),
            ("state", batch.state.value),
            ("waits for", batch.waits_for),
            ("version", f"{batch.collection}@{batch.version}" if batch.version else None),
            ("message", batch.message),
            ("file", batch.source),
            ("submitted", f"{batch.submitted_at.astimezone():%Y-%m-%d %H:%M:%S} by {batch.submitted_by}"),
            (
                "approvals",
                "\n".join([f"{batch.approvals_counted} of {batch.approvals_needed}", *map(_approval, batch.approvals)]),
            ),
            ("policy", "\n".join(map(_policy_change, batch.policy_changes))),
            ("left out", ", ".join(map(str, batch.declined))),
            ("priority", batch.priority.value if batch.priority is not Priority.NORMAL else None),
            ("deadline", batch.deadline),
            ("training", ", ".join(f"{name}={value}" for name, value in sorted(batch.training.items()))),
            (
                "decided",
                f"{batch.decided_at.astimezone():%Y-%m-%d %H:%M:%S} by {batch.decided_by}"
                if batch.decided_at
                else None,
            ),
            ("reason", batch.reason),
            ("job", f"{job.id}: {job.state.value}, attempt {job.attempt}" if job else None),
            ("worker", f"{job.worker} ({_on(job)})" if job and job.worker else None),
            ("notes", "\n".join(notes_of(batch))),
            ("error", job.error if job else None),
            ("preflight", _preflight(batch.preflight) if batch.preflight else None),
        ],
    )
    if batch.preflight and batch.preflight.report is not None:
        show_preflight(console, batch)
    else:
        columns = ["edit#", "prompt", "target", "replaces#", "author"]
        rows = [
            [each.id, asked_of(each), answer_of(each), each.replaces, each.author] for each in batch.edits[:SHOWN_EDITS]
        ]
        show_warnings(console, batch)
        table(console, columns, rows, empty="No edits.")
    if len(batch.edits) > SHOWN_EDITS:
        console.print(f"… and {len(batch.edits) - SHOWN_EDITS} more: --json prints all.")
    if findings:
        show_findings(console, batch)
