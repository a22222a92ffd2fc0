"""`melo versions`, `diff`, `retire`, `rollback`: every state of a collection, and the way back to it."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from registry.cli.invocation import Invocation, invocation
from registry.cli.show import AsJson, example, print_json, table

if TYPE_CHECKING:
    from registry.client import MeloClient
    from registry.edits.schemas import EditView
    from registry.versions.schemas import DiffView, PlannedVersion, VersionView

Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=example("melo versions facts"))(versions)
    app.command(epilog=example("melo diff facts@3 facts@production   (or: melo diff facts 3 production)"))(diff)
    app.command(epilog=example("melo retire facts 12 13 --reason 'no longer true'"))(retire)
    app.command(epilog=example("melo rollback facts 3 --reason 'batch 7 was wrong'"))(rollback)


def versions(
    context: typer.Context,
    collection: str,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List a collection's versions, newest first."""
    call = invocation(context)
    with call.client() as client:
        found = client.versions(collection, limit=limit)
    if as_json:
        print_json(found)
        return
    columns = ["version#", "kind", "edits#", "aliases", "author", "made", "message", "content digest"]
    rows = [
        [
            each.number,
            each.kind.value if each.restores is None else f"{each.kind.value} to {each.restores}",
            each.edit_count,
            ", ".join(each.aliases),
            each.author,
            each.created_at,
            each.message or each.reason,
            each.content_digest[:12],
        ]
        for each in found
    ]
    table(call.out, columns, rows, empty="No versions yet: the base model answers.")


def diff(
    context: typer.Context,
    where: Annotated[
        list[str],
        typer.Argument(metavar="A B", help="COLLECTION@VERSION twice, or COLLECTION VERSION VERSION."),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what changed between two versions; a version is a number, an alias, base or latest."""
    call = invocation(context)
    collection, first, second = _two_versions(where)
    with call.client() as client:
        a, b = number(client, collection, first), number(client, collection, second)
        found = client.diff(collection, a, b)
    if as_json:
        print_json(found)
    else:
        _show_diff(call, collection, found)


def retire(
    context: typer.Context,
    collection: str,
    edits: Annotated[list[int], typer.Argument(metavar="EDIT...", min=1, help="The edits' numbers.")],
    reason: Reason,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a version in which the edits no longer act. Nothing is trained again."""
    call = invocation(context)
    with call.client() as client:
        made = (client.plan_retire if dry_run else client.retire)(collection, edits, reason)
    _finish(call, collection, made, as_json)


def rollback(
    context: typer.Context,
    collection: str,
    to: Annotated[str, typer.Argument(metavar="VERSION", help="A number, an alias, or base.")],
    reason: Reason,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a version whose content equals an older one's, bit for bit."""
    call = invocation(context)
    with call.client() as client:
        target = number(client, collection, to)
        made = (client.plan_rollback if dry_run else client.rollback)(collection, target, reason)
    _finish(call, collection, made, as_json)


def number(client: "MeloClient", collection: str, version: str) -> int:
    """The number that a version's name stands for."""
    if version.isdecimal():
        return int(version)
    return client.resolve(f"{collection}@{version}").number


def _two_versions(where: list[str]) -> tuple[str, str, str]:
    if len(where) == 3:
        return where[0], where[1], where[2]
    names = [word.partition("@") for word in where]
    if len(where) == 2 and all(name and version for name, _, version in names):
        (first_name, _, first), (second_name, _, second) = names
        if first_name != second_name:
            raise typer.BadParameter(f"{first_name} and {second_name} are two collections; name one.")
        return first_name, first, second
    raise typer.BadParameter("write COLLECTION@VERSION twice, or COLLECTION VERSION VERSION.")


def _finish(call: Invocation, collection: str, made: "VersionView | PlannedVersion", as_json: bool) -> None:
    from registry.versions.schemas import PlannedVersion

    if as_json:
        print_json(made)
    elif isinstance(made, PlannedVersion):
        call.out.print(f"It would make {collection}@{made.number}; nothing was changed.", markup=False)
        _show_diff(call, collection, made.diff)
    else:
        edits = "1 edit" if made.edit_count == 1 else f"{made.edit_count} edits"
        call.out.print(Text(f"{collection}@{made.number} was made: {edits} act, content {made.content_digest[:12]}."))


def _show_diff(call: Invocation, collection: str, found: "DiffView") -> None:
    if found.same_content:
        call.out.print(f"{collection}@{found.a} and @{found.b} have the same content.", markup=False)
        return

    def row(sign: str, edit: "EditView", colour: str) -> list[object]:
        return [Text(sign, style=colour), edit.id, edit.prompt, Text(edit.target, style=colour), edit.author]

    rows = [row("+", edit, "green") for edit in found.added]
    rows += [row("-", edit, "red") for edit in found.retired]
    for pair in found.replaced:
        rows += [row("-", pair.old, "red"), row("+", pair.new, "green")]
    table(call.out, ["", "edit#", "prompt", "target", "author"], rows, empty="The same edits.")
    for name, count in (("clusters", found.clusters), ("blocks", found.blocks)):
        call.out.print(f"{name}: {count.added} added, {count.removed} removed, {count.changed} changed")
