"""`melo alias`: names such as production that point at a version, their canaries, history, and who may set them."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import add_command, add_group
from cli.invocation import Invocation
from cli.options import Collection, Reason
from cli.shadow_report import report
from cli.show import fields, table
from cli.times import TIME_HELP, moment
from cli.versions import number

if TYPE_CHECKING:
    from registry.versions.schemas import AliasView

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as production.")]
Second = Annotated[str, typer.Argument(metavar="VERSION", help="The second version: a number, an alias, or latest.")]
Why = Annotated[str, typer.Option("--reason", help="Why.")]
STAMP = "%Y-%m-%d %H:%M:%S %z"


class ProtectingRole(StrEnum):
    APPROVER = "approver"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    group = add_group(app, "alias", "Aliases: names that point at a version.", "melo alias set facts production 3")
    add_command(group, set_, "melo alias set facts production 3 --reason 'passed the evaluation'")
    add_command(group, canary, "melo alias canary facts production 18 --share 0.1 --reason 'a first tenth'")
    add_command(group, shadow, "melo alias shadow facts production 18 --reason 'what would it change?'")
    add_command(group, promote, "melo alias promote facts production --reason 'nothing got worse'")
    add_command(group, end, "melo alias end facts production --reason 'it answers worse'")
    add_command(group, report, "melo alias report facts production --server http://127.0.0.1:8420")
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
    reason: Why = "",
) -> None:
    """Point an alias at a version, and at that alone: its canary or shadow ends."""
    _show(call, collection, call.client.set_alias(collection, name, number(call, collection, version), reason))


def canary(
    call: Invocation,
    collection: Collection,
    name: Name,
    version: Second,
    share: Annotated[float, typer.Option(help="The share of users that it answers: above 0, below 1.")],
    reason: Why = "",
) -> None:
    """Let a second version answer a share of an alias's users; as the share grows, those who had it keep it."""
    if not 0 < share < 1:
        raise typer.BadParameter(
            "it is a number above 0 and below 1, such as 0.1; for all users: melo alias promote.", param_hint="--share"
        )
    second = number(call, collection, version)
    _show(call, collection, call.client.set_canary(collection, name, second, share, reason))


def shadow(call: Invocation, collection: Collection, name: Name, version: Second, reason: Why = "") -> None:
    """Have a second version answer in the background what an alias is asked, and compare: see `melo alias report`."""
    _show(call, collection, call.client.set_shadow(collection, name, number(call, collection, version), reason))


def promote(call: Invocation, collection: Collection, name: Name, reason: Why = "") -> None:
    """Point an alias at its canary or shadow, for all users."""
    _show(call, collection, call.client.promote_second(collection, name, reason))


def end(call: Invocation, collection: Collection, name: Name, reason: Why = "") -> None:
    """End an alias's canary or shadow: its first version answers all users."""
    _show(call, collection, call.client.end_second(collection, name, reason))


def _show(call: Invocation, collection: str, made: "AliasView") -> None:
    second = f", with {_second(made)}" if made.second is not None else ""
    call.emit(made, lambda: call.out.print(f"{collection}@{made.name} is version {made.number}{second}."))


def _second(alias: "AliasView") -> str | None:
    """Return "canary 18 for 0.1 of users", "shadow 18", or None."""
    if alias.second is None:
        return None
    return f"shadow {alias.second}" if alias.share is None else f"canary {alias.second} for {alias.share:g} of users"


def list_(call: Invocation, collection: Collection) -> None:
    """List where a collection's aliases point now."""
    found = call.client.aliases(collection)

    def show() -> None:
        protected = {each.name: each.role for each in call.client.protections(collection)}
        columns = ["alias", "version#", "second", "since", "set by", "reason", "set only by"]
        rows = [[each.name, each.number, _second(each), each.set_at, each.set_by, each.reason,
                 protected.pop(each.name, None)] for each in found]  # fmt: skip
        rows += [[name, None, None, None, None, None, role] for name, role in protected.items()]
        table(call.out, columns, rows, empty="No alias points anywhere yet.")

    call.emit(found, show)


def history(call: Invocation, collection: Collection, name: Name) -> None:
    """List where an alias pointed, since when and until when, newest first."""
    found = call.client.alias_history(collection, name)
    columns = ["alias", "version#", "second", "since", "until", "set by", "reason"]
    rows = [
        [each.name, each.number, _second(each), each.set_at, each.replaced_at or "now", each.set_by, each.reason]
        for each in found
    ]
    call.emit(found, lambda: table(call.out, columns, rows, empty=""))
    for each in found:
        if each.unverified:
            call.err.print(f"Do not rely on {each.name} at version {each.number}: {each.unverified}.")


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
        ("second version", _second(found) or "none"),
        ("put there by", found.set_by),
        ("reason", found.reason or "none was given"),
        ("from", f"{found.set_at.astimezone():{STAMP}}"),
        ("until", f"{found.replaced_at.astimezone():{STAMP}}" if found.replaced_at else "now"),
    ]
    call.say(f"At {time:{STAMP}}, {collection}@{name} was version {found.number}.")
    call.emit(found, lambda: fields(call.out, pairs))
    if found.unverified:
        call.err.print(f"Do not rely on it: {found.unverified}. See `melo audit verify`.")


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
