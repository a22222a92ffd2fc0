"""`melo key`: who may use the API, and for what."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.options import Reason
from cli.show import fields, table
from cli.times import later
from registry.base.vocabulary import Role

if TYPE_CHECKING:
    from registry.access.schemas import CreatedKeyView, GrantView, KeyView

Number = Annotated[int, typer.Argument(metavar="KEY", help="Its number, as `melo key list` shows it.")]
Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="30m, 12h, 90d, 4w from now, a time, or never. Default: never.")
]


NEVER: Literal["never"] = "never"


def register(app: typer.Typer) -> None:
    group = add_group(
        app,
        "key",
        "API keys: who may use the API, and for what.",
        "melo key create ci --role editor --collection facts --expires 90d",
    )
    add_command(group, create, "melo key create ci --role editor --collection facts --expires 90d")
    add_command(group, list_, "melo key list")
    add_command(group, rotate, "melo key rotate 3 --reason 'every quarter'")
    add_command(group, revoke, "melo key revoke 3 --reason 'its laptop was lost'")


def create(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name, such as ci.")],
    role: Annotated[
        list[str],
        typer.Option(metavar="ROLE[@COLLECTION]", help=f"{', '.join(Role)}; may be repeated."),
    ],
    collection: Annotated[
        list[str] | None,
        typer.Option(help="Where roles without @COLLECTION hold; may be repeated. Default: in all."),
    ] = None,
    expires: Expires = None,
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="As the record names whoever uses it. Default: the key's name.")
    ] = None,
) -> None:
    """Create an API key and print it: it is shown only this once."""
    until = later(expires) if expires not in (None, NEVER) else None
    roles = [grant for each in role for grant in _grants(each, collection or [])]
    made = call.client.create_key(name, roles, actor=actor, expires_at=until)
    call.emit(made, lambda: _show_made(call, made))


def list_(
    call: Invocation,
    every: Annotated[bool, typer.Option("--all", help="Also those that expired or were revoked.")] = False,
) -> None:
    """List the API keys, newest first; their secrets are known only to their holders."""
    found = [key for key in call.client.api_keys() if every or key.state == "active"]
    columns = ["key#", "name", "acts as", "begins with", "state", "roles", "made by", "expires", "last used"]
    rows = [
        [
            key.id, key.name, key.actor, f"melo_{key.prefix}", _state(key), _roles(key.roles), key.created_by,
            key.expires_at or "never", key.last_used_at or "never",
        ]
        for key in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="No keys. `melo key create` makes one."))


def rotate(
    call: Invocation,
    key: Number,
    reason: Reason,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="90d from now, a time, or never. Default: it lasts as long as the old one did."
        ),
    ] = None,
) -> None:
    """Create a key with the same name, actor, roles and lifetime, print it, and revoke this one."""
    until: datetime | Literal["never"] | None = (
        None if expires is None else NEVER if expires == NEVER else later(expires)
    )
    made = call.client.rotate_key(key, reason, expires_at=until)
    call.emit(made, lambda: _show_made(call, made))


def revoke(
    call: Invocation,
    key: Number,
    reason: Reason,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show which key it is; change nothing.")] = False,
) -> None:
    """Revoke a key for good."""
    found = _key(call.client.api_keys(), key) if dry_run else call.client.revoke_key(key, reason)
    done = "would be revoked; nothing was changed" if dry_run else "is revoked"
    call.emit(found, lambda: call.out.print(f"Key {found.id} ({found.name}, melo_{found.prefix}…) {done}."))


def _grants(text: str, collections: list[str]) -> list[dict[str, str | None]]:
    """Parse ROLE@COLLECTION, or ROLE in each of the collections, or in all."""
    role, at, where = text.partition("@")
    if role not in set(Role) or (at and not where):
        raise CommandError(
            "No such role", f"{text!r} is not a role.", f"Write one of {', '.join(Role)}, or ROLE@COLLECTION."
        )
    everywhere: list[str | None] = [None]
    return [{"role": role, "collection": each} for each in ([where] if at else collections or everywhere)]


def _show_made(call: Invocation, made: "CreatedKeyView") -> None:
    fields(
        call.err,
        [
            ("key", f"{made.id} ({made.name})"),
            ("acts as", made.actor),
            ("roles", _roles(made.roles)),
            ("expires", made.expires_at or "never"),
        ],
    )
    call.err.print("Keep it: it is shown this once. Use it as MELO_API_KEY.", style="yellow")
    call.out.print(made.key)


def _roles(grants: "list[GrantView]") -> str:
    return ", ".join(
        each.role.value if each.collection is None else f"{each.role}@{each.collection}" for each in grants
    )


def _state(key: "KeyView") -> str:
    return key.state.value if key.revoked_by is None else f"{key.state.value} by {key.revoked_by}"


def _key(keys: "list[KeyView]", number: int) -> "KeyView":
    for key in keys:
        if key.id == number:
            return key
    raise CommandError("No such record", f"There is no key {number}.", "`melo key list --all` shows those that exist.")
