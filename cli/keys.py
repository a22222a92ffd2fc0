"""`melo key`: who may use the API, and for what."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError
from cli.invocation import Invocation, invocation
from cli.show import AsJson, example, fields, print_json, table
from cli.times import later
from registry.base.vocabulary import Role

if TYPE_CHECKING:
    from registry.access.schemas import CreatedKeyView, GrantView, KeyView

Number = Annotated[int, typer.Argument(metavar="KEY", help="Its number, as `melo key list` shows it.")]
Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="30m, 12h, 90d, 4w from now, or a time. Default: never.")
]
Reason = Annotated[str, typer.Option(help="Why; it is kept for good.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="API keys: who may use the API, and for what.",
        epilog=example("melo key create ci --role editor --collection facts --expires 90d"),
        no_args_is_help=True,
    )
    app.add_typer(group, name="key")
    group.command(epilog=example("melo key create ci --role editor --collection facts --expires 90d"))(create)
    group.command("list", epilog=example("melo key list"))(list_)
    group.command(epilog=example("melo key rotate 3 --expires 90d --reason 'every quarter'"))(rotate)
    group.command(epilog=example("melo key revoke 3 --reason 'its laptop was lost'"))(revoke)


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The key's name, such as ci.")],
    role: Annotated[
        list[str],
        typer.Option(metavar="ROLE[@COLLECTION]", help=f"{', '.join(Role)}; it may be given several times."),
    ],
    collection: Annotated[
        list[str] | None,
        typer.Option(help="Where roles without @COLLECTION hold; it may be given several times. Default: in all."),
    ] = None,
    expires: Expires = None,
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="As the record names whoever uses it. Default: the key's name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it: it is shown only this once."""
    call = invocation(context)
    until = later(expires) if expires is not None else None
    roles = [grant for each in role for grant in _grants(each, collection or [])]
    with call.client() as client:
        made = client.create_key(name, roles, actor=actor, expires_at=until)
    _show_made(call, made, as_json)


def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that expired or were revoked.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the API keys, newest first; their secrets are known only to their holders."""
    call = invocation(context)
    with call.client() as client:
        found = [key for key in client.api_keys() if every or key.state == "active"]
    if as_json:
        print_json(found)
        return
    columns = ["key#", "name", "acts as", "begins with", "state", "roles", "made by", "expires", "last used"]
    rows = [
        [
            key.id, key.name, key.actor, f"melo_{key.prefix}", _state(key), _roles(key.roles), key.created_by,
            key.expires_at or "never", key.last_used_at or "never",
        ]
        for key in found
    ]  # fmt: skip
    table(call.out, columns, rows, empty="No keys. `melo key create` makes one.")


def rotate(
    context: typer.Context, key: Number, reason: Reason, expires: Expires = None, as_json: AsJson = False
) -> None:
    """Create a key with the same name, actor and roles, print it, and revoke this one."""
    call = invocation(context)
    until = later(expires) if expires is not None else None
    with call.client() as client:
        made = client.rotate_key(key, reason, expires_at=until)
    _show_made(call, made, as_json)


def revoke(
    context: typer.Context,
    key: Number,
    reason: Reason,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show which key it is; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a key for good."""
    call = invocation(context)
    with call.client() as client:
        found = _key(client.api_keys(), key) if dry_run else client.revoke_key(key, reason)
    if as_json:
        print_json(found)
        return
    done = "would be revoked; nothing was changed" if dry_run else "is revoked"
    call.out.print(f"Key {found.id} ({found.name}, melo_{found.prefix}…) {done}.", markup=False)


def _grants(text: str, collections: list[str]) -> list[dict[str, str | None]]:
    """Parse ROLE@COLLECTION, or ROLE in each of the collections, or in all."""
    role, at, where = text.partition("@")
    if role not in set(Role) or (at and not where):
        raise CommandError(
            "No such role", f"{text!r} is no role.", f"Write one of {', '.join(Role)}, or ROLE@COLLECTION."
        )
    everywhere: list[str | None] = [None]
    return [{"role": role, "collection": each} for each in ([where] if at else collections or everywhere)]


def _show_made(call: Invocation, made: "CreatedKeyView", as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
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
    call.out.print(made.key, markup=False)


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
