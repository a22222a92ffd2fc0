"""`melo collection queue`, `pause`, `drain` and `resume`: a collection's queue and its state."""

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.errors import CommandError
from cli.invocation import Invocation, invocation
from cli.show import AsJson, example, print_json, table
from registry.base.vocabulary import QueueState

if TYPE_CHECKING:
    from registry.client import MeloClient
    from registry.jobs.schemas import QueueEntry, QueueView

POLL_SECONDS = 0.5
Reason = Annotated[str, typer.Option(help="Why; it is kept for good.")]


def add_to(group: typer.Typer) -> None:
    """Add the commands to the group `melo collection`."""
    group.command(epilog=example("melo collection queue facts"))(queue)
    group.command(epilog=example("melo collection pause facts --reason 'the GPU is needed elsewhere' --wait"))(pause)
    group.command(epilog=example("melo collection drain facts --reason 'before the migration' --wait"))(drain)
    group.command(epilog=example("melo collection resume facts --reason 'the GPU is free again'"))(resume)


def queue(context: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Show what runs and what waits, in starting order."""
    call = invocation(context)
    with call.client() as client:
        found = client.queue(name)
    if as_json:
        print_json(found)
    else:
        _show(call, found)


def pause(
    context: typer.Context,
    name: str,
    reason: Reason,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing of it runs any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start no more jobs of a collection; running ones finish. Submissions and approvals go on."""
    _set(context, name, QueueState.PAUSED, reason, wait, as_json)


def drain(
    context: typer.Context,
    name: str,
    reason: Reason,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing of it runs or waits any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Finish what is queued, and accept nothing new: neither submissions nor approvals."""
    _set(context, name, QueueState.DRAINING, reason, wait, as_json)


def resume(context: typer.Context, name: str, reason: Reason, as_json: AsJson = False) -> None:
    """Open a collection's queue again."""
    _set(context, name, QueueState.OPEN, reason, False, as_json)


def _set(context: typer.Context, name: str, state: QueueState, reason: str, wait: bool, as_json: bool) -> None:
    call = invocation(context)
    with call.client() as client:
        changed = client.set_queue(name, state, reason)
        if not as_json:
            call.out.print(Text(f"The queue of {name} is {changed.queue.value}."))
        if wait:
            _wait(call, client, name, state)
    if as_json:
        print_json(changed)


def _wait(call: Invocation, client: "MeloClient", name: str, state: QueueState) -> None:
    """Wait until nothing runs and, in a draining queue, nothing waits. Raises CommandError if the state changes."""
    with call.err.status("looking") as spinner:
        while True:
            found = client.queue(name)
            if found.state is not state:
                raise CommandError(
                    "The queue was changed meanwhile",
                    f"The queue of {name} is {found.state.value}.",
                    f"See who did it: melo audit log --collection {name}",
                )
            waiting = found.waiting_count if state is QueueState.DRAINING else 0
            if not found.running and not waiting:
                break
            spinner.update(f"{_running(found)}; {found.waiting_count} waiting")
            time.sleep(POLL_SECONDS)
    call.err.print(Text(f"Nothing of {name} runs{' or waits' if state is QueueState.DRAINING else ''} any more."))


def _running(found: "QueueView") -> str:
    return ", ".join(f"batch {each.batch_id}: {_at(each)}" for each in found.running) or "nothing runs"


def _at(each: "QueueEntry") -> str:
    """Describe the stage of a running job, and how much of it is done."""
    at = each.progress
    if at is None or not at.stage:
        return "starting"
    return f"{at.stage} {at.done}/{at.total}" if at.total else at.stage


def _show(call: Invocation, found: "QueueView") -> None:
    if found.state is not QueueState.OPEN:
        remedy = f"melo collection resume {found.collection} --reason …"
        call.out.print(Text(f"The queue of {found.collection} is {found.state.value}: {remedy}", style="yellow"))
    columns = ["batch#", "job#", "kind", "state", "edits#", "priority", "deadline", "since", "at", "waits for"]
    rows = [
        [
            each.batch_id,
            each.id,
            each.kind.value,
            each.state.value,
            each.edit_count,
            each.priority.value,
            each.deadline,
            each.started_at if each in found.running else each.created_at,
            _at(each) if each in found.running else None,
            # For a paused queue, the line above has said so.
            None if found.state is QueueState.PAUSED and each not in found.running else each.waits_for or None,
        ]
        for each in (*found.running, *found.waiting)
    ]
    table(call.out, columns, rows, empty=f"Nothing of {found.collection} runs or waits.")
    if found.waiting_count > len(found.waiting):
        call.out.print(f"… and {found.waiting_count - len(found.waiting)} more wait.")
