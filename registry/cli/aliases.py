"""`melo alias`: names such as production that point at a version, and where they pointed before."""

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.invocation import Invocation, invocation
from registry.cli.show import AsJson, example, print_json, table
from registry.cli.versions import number

if TYPE_CHECKING:
    from registry.versions.schemas import AliasView

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as production.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Aliases: names that point at a version.",
        epilog=example("melo alias set facts production 3"),
        no_args_is_help=True,
    )
    app.add_typer(group, name="alias")

    @group.command("set", epilog=example("melo alias set facts production 3 --reason 'passed the evaluation'"))
    def set_(
        context: typer.Context,
        collection: str,
        name: Name,
        version: Annotated[str, typer.Argument(help="A number, another alias, or latest.")],
        reason: Annotated[str, typer.Option(help="Why.")] = "",
        as_json: AsJson = False,
    ) -> None:
        """Point an alias at a version."""
        call = invocation(context)
        with call.client() as client:
            made = client.set_alias(collection, name, number(client, collection, version), reason)
        if as_json:
            print_json(made)
        else:
            call.out.print(f"{collection}@{made.name} is version {made.number}.", markup=False)

    @group.command("list", epilog=example("melo alias list facts"))
    def list_(context: typer.Context, collection: str, as_json: AsJson = False) -> None:
        """List where a collection's aliases point now."""
        call = invocation(context)
        with call.client() as client:
            found = client.aliases(collection)
        _show(call, found, as_json)

    @group.command(epilog=example("melo alias history facts production"))
    def history(context: typer.Context, collection: str, name: Name, as_json: AsJson = False) -> None:
        """List where an alias pointed, since when and until when, newest first."""
        call = invocation(context)
        with call.client() as client:
            found = client.alias_history(collection, name)
        _show(call, found, as_json)


def _show(call: Invocation, found: "list[AliasView]", as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    columns = ["alias", "version#", "since", "until", "set by", "reason"]
    rows = [
        [each.name, each.number, each.set_at, each.replaced_at or "now", each.set_by, each.reason] for each in found
    ]
    table(call.out, columns, rows, empty="No alias points anywhere yet.")
