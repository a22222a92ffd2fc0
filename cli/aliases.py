"""`melo alias`: names such as production that point at a version, their history, and who may set them."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.commands import add_command, add_group
from cli.invocation import Invocation
from cli.options import Collection, Reason
from cli.show import fields, table
from cli.times import TIME_HELP, moment
from cli.versions import number

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as production.")]
STAMP = "%Y-%m-%d %H:%M:%S %z"


class ProtectingRole(StrEnum):
    APPROVER = "approver"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    group = add_group(app, "alias", "Aliases: names that point at a version.", "melo alias set facts production 3")
    add_command(group, set_, "melo alias set facts production 3 --reason 'passed the evaluation'")
    add_command(group, list_, "melo alias list facts")
    add_command(group, history, "melo alias history facts production")
    add_command(group, at, "melo alias at facts production --at 2026-11-17T14:05")
    add_command(group, protect, "melo alias protect facts production --role admin --reason 'it serves customers'")
    add_command(group, unprotect, "melo alias unprotect facts staging --reason 'nobody is served by it any more'")


def set_(
    call: Invocation,
    collection: Collection,
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, another alias, or latest.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Point an alias at a version."""
    made = call.client.set_alias(collection, name, number(call, collection, version), reason)
    call.emit(made, lambda: call.out.print(f"{collection}@{made.name} is version {made.number}."))


def list_(call: Invocation, collection: Collection) -> None:
    """List where a collection's aliases point now."""
    found = call.client.aliases(collection)

    def show() -> None:
        protected = {each.name: each.role for each in call.client.protections(collection)}
        columns = ["alias", "version#", "since", "set by", "reason", "set only by"]
        rows = [[each.name, each.number, each.set_at, each.set_by, each.reason, protected.pop(each.name, None)]
                for each in found]  # fmt: skip
        rows += [[name, None, None, None, None, role] for name, role in protected.items()]
        table(call.out, columns, rows, empty="No alias points anywhere yet.")

    call.emit(found, show)


def history(call: Invocation, collection: Collection, name: Name) -> None:
    """List where an alias pointed, since when and until when, newest first."""
    found = call.client.alias_history(collection, name)
    columns = ["alias", "version#", "since", "until", "set by", "reason"]
    rows = [
        [each.name, each.number, each.set_at, each.replaced_at or "now", each.set_by, each.reason] for each in found
    ]
    call.emit(found, lambda: table(call.out, columns, rows, empty=""))


def at(
    call: Invocation,
    collection: Collection,
    name: Name,
    at: Annotated[str, typer.Option(metavar="TIME", help=TIME_HELP)],
) -> None:
    """Say where an alias pointed at a given moment, and who had set it, when and why."""
    time = moment(at)
    found = call.client.alias_at(collection, name, time)
    pairs = [
        ("put there by", found.set_by),
        ("reason", found.reason or "none was given"),
        ("from", f"{found.set_at.astimezone():{STAMP}}"),
        ("until", f"{found.replaced_at.astimezone():{STAMP}}" if found.replaced_at else "now"),
    ]
    call.say(f"At {time:{STAMP}}, {collection}@{name} was version {found.number}.")
    call.emit(found, lambda: fields(call.out, pairs))


def protect(
    call: Invocation,
    collection: Collection,
    name: Name,
    reason: Reason,
    role: Annotated[ProtectingRole, typer.Option(help="Needed to set the alias.")] = ProtectingRole.ADMIN,
) -> None:
    """Let only those with a role set an alias, which need not exist yet."""
    made = call.client.protect_alias(collection, name, reason, role.value)
    call.emit(made, lambda: call.out.print(f"Setting {collection}@{made.name} now needs the role {made.role}."))


def unprotect(call: Invocation, collection: Collection, name: Name, reason: Reason) -> None:
    """Let every approver set an alias again."""
    was = call.client.unprotect_alias(collection, name, reason)
    call.emit(was, lambda: call.out.print(f"{collection}@{was.name} is protected no more."))
