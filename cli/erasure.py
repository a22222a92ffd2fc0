"""`melo edit erase` and `melo edit find`: removing a person's data; the digests stay."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.invocation import Invocation, invocation
from cli.options import require_confirmed
from cli.show import AsJson, print_json, table

if TYPE_CHECKING:
    from registry.erasure.schemas import ErasureView


def erase(
    context: typer.Context,
    edits: Annotated[list[int], typer.Argument(metavar="EDIT...", min=1, help="The edits' numbers.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept for good, so name nobody in it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase edits for good: prompt, target and everything that quotes them, keys and trained blocks; digests stay."""
    call = invocation(context)
    with call.client() as client:
        if not yes or dry_run:
            planned = client.erase(edits, reason, dry_run=True)
            if dry_run:
                _show(call, planned, as_json)
                return
            _tell(call, planned)
            require_confirmed("Erase it for good?", "Nothing was erased")
        done = client.erase(edits, reason)
    _show(call, done, as_json)


def find(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As the edits' author, or as their texts mention it.")],
    as_json: AsJson = False,
) -> None:
    """List the edits that a person wrote or that mention the person; erase those with `melo edit erase`."""
    call = invocation(context)
    with call.client() as client:
        found = client.edits_of_person(name)
    if as_json:
        print_json(found)
        return
    rows = [
        [each.id, each.collection, "wrote it" if each.written else "is mentioned", each.prompt, each.target]
        for each in found
    ]
    table(call.out, ["edit#", "collection", "the person", "prompt", "target"], rows, empty="No edits.")
    if found:
        call.out.print(
            f"To erase them: melo edit erase {' '.join(str(each.id) for each in found)} --reason … --dry-run",
            markup=False,
        )


def _show(call: Invocation, view: "ErasureView", as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    _tell(call, view)
    call.out.print("Nothing was changed." if view.dry_run else "It was erased; the digests stay in the audit log.")


def _tell(call: Invocation, view: "ErasureView") -> None:
    names = ", ".join(str(each) for each in view.edits)
    call.out.print(
        f"{'Would go' if view.dry_run else 'Gone'}: the content of edit {names}; {view.blocks} blocks, "
        f"{view.points} keys, {view.clusters} states of clusters, quotes in {view.jobs} jobs.",
        markup=False,
    )
    for each in view.unservable:
        call.out.print(
            f"No longer to be served: {each.collection}@{_ranges(each.versions)}; "
            f"from version {each.servable_from} on it can be.",
            markup=False,
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
