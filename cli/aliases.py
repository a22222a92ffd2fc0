"""`melo alias`: names such as production that point at a version, their history, and who may set them."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.invocation import invocation
from cli.show import AsJson, example, fields, print_json, table
from cli.times import TIME_HELP, moment
from cli.versions import number

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as production.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept for good.")]
STAMP = "%Y-%m-%d %H:%M:%S %z"


class ProtectingRole(StrEnum):
    APPROVER = "approver"
    ADMIN = "admin"


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
            if as_json:
                print_json(found)
                return
            protected = {each.name: each.role for each in client.protections(collection)}
        rows = [[each.name, each.number, each.set_at, each.set_by, each.reason, protected.pop(each.name, None)]
                for each in found]  # fmt: skip
        rows += [[name, None, None, None, None, role] for name, role in protected.items()]
        columns = ["alias", "version#", "since", "set by", "reason", "set only by"]
        table(call.out, columns, rows, empty="No alias points anywhere yet.")

    @group.command(epilog=example("melo alias history facts production"))
    def history(context: typer.Context, collection: str, name: Name, as_json: AsJson = False) -> None:
        """List where an alias pointed, since when and until when, newest first."""
        call = invocation(context)
        with call.client() as client:
            found = client.alias_history(collection, name)
        if as_json:
            print_json(found)
            return
        columns = ["alias", "version#", "since", "until", "set by", "reason"]
        rows = [
            [each.name, each.number, each.set_at, each.replaced_at or "now", each.set_by, each.reason] for each in found
        ]
        table(call.out, columns, rows, empty="")

    @group.command(epilog=example("melo alias at facts production --at 2026-11-17T14:05"))
    def at(
        context: typer.Context,
        collection: str,
        name: Name,
        at: Annotated[str, typer.Option(metavar="TIME", help=TIME_HELP)],
        as_json: AsJson = False,
    ) -> None:
        """Say where an alias pointed at a given moment, and who had set it, when and why."""
        call = invocation(context)
        time = moment(at)
        with call.client() as client:
            found = client.alias_at(collection, name, time)
        if as_json:
            print_json(found)
            return
        until = f"{found.replaced_at.astimezone():{STAMP}}" if found.replaced_at else "now"
        call.out.print(f"At {time:{STAMP}}, {collection}@{name} was version {found.number}.", markup=False)
        fields(
            call.out,
            [
                ("put there by", found.set_by),
                ("reason", found.reason or "none was given"),
                ("from", f"{found.set_at.astimezone():{STAMP}}"),
                ("until", until),
            ],
        )

    @group.command(epilog=example("melo alias protect facts production --role admin --reason 'it serves customers'"))
    def protect(
        context: typer.Context,
        collection: str,
        name: Name,
        reason: Reason,
        role: Annotated[ProtectingRole, typer.Option(help="Needed to set the alias.")] = ProtectingRole.ADMIN,
        as_json: AsJson = False,
    ) -> None:
        """Let only those with a role set an alias, which need not exist yet."""
        call = invocation(context)
        with call.client() as client:
            made = client.protect_alias(collection, name, reason, role.value)
        if as_json:
            print_json(made)
        else:
            call.out.print(f"Setting {collection}@{made.name} now needs the role {made.role}.", markup=False)

    @group.command(epilog=example("melo alias unprotect facts staging --reason 'nobody is served by it any more'"))
    def unprotect(context: typer.Context, collection: str, name: Name, reason: Reason, as_json: AsJson = False) -> None:
        """Let every approver set an alias again."""
        call = invocation(context)
        with call.client() as client:
            was = client.unprotect_alias(collection, name, reason)
        if as_json:
            print_json(was)
        else:
            call.out.print(f"{collection}@{was.name} is protected no more.", markup=False)
