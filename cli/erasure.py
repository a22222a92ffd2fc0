"""`melo edit erase` and `melo edit find`: removing a person's data; the digests stay."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.invocation import Invocation
from cli.options import require_confirmed
from cli.show import table

if TYPE_CHECKING:
    from rich.console import Console

    from registry.erasure.schemas import ErasureView


def erase(
    call: Invocation,
    edits: Annotated[list[int], typer.Argument(metavar="EDIT...", min=1, help="The edits' numbers.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept for good, so name nobody in it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase edits for good: prompt, target and everything that quotes them, keys and trained blocks; digests stay."""
    if not yes or dry_run:
        planned = call.client.erase(edits, reason, dry_run=True)
        if dry_run:
            call.emit(planned, lambda: _show(call.out, planned))
            return
        _tell(call.err, planned)
        require_confirmed("Erase it for good?", "Nothing was erased")
    done = call.client.erase(edits, reason)
    call.emit(done, lambda: _show(call.out, done))


def find(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As the edits' author, or as their texts mention it.")],
) -> None:
    """List the edits that a person wrote or that mention the person; erase those with `melo edit erase`."""
    found = call.client.edits_of_person(name)
    rows = [
        [each.id, each.collection, "wrote it" if each.written else "is mentioned", each.prompt, each.target]
        for each in found
    ]
    columns = ["edit#", "collection", "the person", "prompt", "target"]
    call.emit(found, lambda: table(call.out, columns, rows, empty="No edits."))
    if found:
        call.say(f"To erase them: melo edit erase {' '.join(str(each.id) for each in found)} --reason … --dry-run")


def _show(console: "Console", view: "ErasureView") -> None:
    _tell(console, view)
    console.print("Nothing was changed." if view.dry_run else "It was erased; the digests stay in the audit log.")


def _tell(console: "Console", view: "ErasureView") -> None:
    names = ", ".join(str(each) for each in view.edits)
    console.print(
        f"{'Would go' if view.dry_run else 'Gone'}: the content of edit {names}; {view.blocks} blocks, "
        f"{view.points} keys, {view.clusters} states of clusters, quotes in {view.jobs} jobs, the text of "
        f"{view.answers} logged answers and feedback.",
    )
    for each in view.unservable:
        console.print(
            f"No longer to be served: {each.collection}@{_ranges(each.versions)}; "
            f"from version {each.servable_from} on it can be.",
        )


def _ranges(numbers: list[int]) -> str:
    """Format numbers as ranges: 1-3, 7 for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
