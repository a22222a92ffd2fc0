"""`melo audit`: who did what, and whether anything differs from what was written."""

from typing import Annotated

import typer

from registry.cli.errors import CommandError
from registry.cli.invocation import invocation
from registry.cli.show import AsJson, example, print_json, table


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="The audit log: read it, verify it.",
        epilog=example("melo audit verify"),
        no_args_is_help=True,
    )
    app.add_typer(group, name="audit")

    @group.command(epilog=example("melo audit log --collection facts --limit 20"))
    def log(
        context: typer.Context,
        collection: Annotated[str | None, typer.Option(help="Only this collection's events.")] = None,
        subject: Annotated[str | None, typer.Option(help="Only events about this, such as batch/3.")] = None,
        limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
        as_json: AsJson = False,
    ) -> None:
        """List the events, newest first."""
        call = invocation(context)
        with call.client() as client:
            found = client.audit(collection=collection, subject=subject, limit=limit)
        if as_json:
            print_json(found)
            return
        columns = ["event#", "at", "actor", "action", "subject", "reason", "hash"]
        rows = [
            [each.seq, each.at, each.actor, each.action, each.subject, each.reason, each.hash[:12]] for each in found
        ]
        table(call.out, columns, rows, empty="No events.")

    @group.command(epilog=example("melo audit verify --json"))
    def verify(context: typer.Context, as_json: AsJson = False) -> None:
        """Recompute the chain of events and every stored digest; status 1 if anything differs."""
        call = invocation(context)
        with call.client() as client, call.err.status("recomputing every digest"):
            found = client.verify()
        if as_json:
            print_json(found)
        else:
            counts = ", ".join(f"{count} {name}" for name, count in found.checked.items())
            call.out.print(f"Checked: {counts}.", markup=False)
        if not found.ok:
            raise CommandError(
                "The record was changed",
                "\n".join(f"{finding.subject}: {finding.detail}" for finding in found.findings),
                "Compare it with a backup; do not serve what is named.",
            )
        if not as_json:
            call.out.print(f"All as written, up to event {found.head_seq} ({found.head_hash[:12]}).", markup=False)
