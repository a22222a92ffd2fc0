"""`melo collection queue`, `pause`, `drain` and `resume`: a collection's queue and its state."""

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.options import Collection, Reason
from cli.show import table
from registry.base.vocabulary import QueueState

if TYPE_CHECKING:
    from registry.jobs.schemas import QueueEntry, QueueView

POLL_SECONDS = 0.5


def add_to(group: typer.Typer) -> None:
    """Add the commands to the group `melo collection`."""
    add_command(group, queue, "melo collection queue facts")
    add_command(group, pause, "melo collection pause facts --reason 'the GPU is needed elsewhere' --wait")
    add_command(group, drain, "melo collection drain facts --reason 'before the migration' --wait")
    add_command(group, resume, "melo collection resume facts --reason 'the GPU is free again'")


def queue(call: Invocation, name: Collection) -> None:
    """Show what runs and what waits, in starting order."""
    found = call.client.queue(name)
    call.emit(found, lambda: _show(call, found))


def pause(
    call: Invocation,
    name: Collection,
    reason: Reason,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing of it runs any more.")] = False,
) -> None:
    """Start no more jobs of a collection; running ones finish. Submissions and approvals go on."""
    _set(call, name, QueueState.PAUSED, reason, wait)


def drain(
    call: Invocation,
    name: Collection,
    reason: Reason,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing of it runs or waits any more.")] = False,
) -> None:
    """Finish what is queued, and accept nothing new: neither submissions nor approvals."""
    _set(call, name, QueueState.DRAINING, reason, wait)


def resume(call: Invocation, name: Collection, reason: Reason) -> None:
    """Open a collection's queue again."""
    _set(call, name, QueueState.OPEN, reason)


def _set(call: Invocation, name: str, state: QueueState, reason: str, wait: bool = False) -> None:
    changed = call.client.set_queue(name, state, reason)
    call.say(f"The queue of {name} is {changed.queue.value}.")
    if wait:
        _wait(call, name, state)
    call.emit(changed)


def _wait(call: Invocation, name: str, state: QueueState) -> None:
    """Wait until nothing runs and, in a draining queue, nothing waits. Raises CommandError if the state changes."""
    with call.err.status("looking") as spinner:
        while True:
            found = call.client.queue(name)
            if found.state is not state:
                raise CommandError(
                    "The queue was changed in the meantime",
                    f"The queue of {name} is {found.state.value}.",
                    f"See who changed it: melo audit log --collection {name}",
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
