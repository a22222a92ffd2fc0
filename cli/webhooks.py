"""`melo webhook`: notify other programs of new versions and moved aliases."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError
from cli.invocation import invocation
from cli.options import require_confirmed
from cli.show import AsJson, example, print_json, table
from registry.base.vocabulary import WebhookEvent

if TYPE_CHECKING:
    from registry.client import MeloClient
    from registry.webhooks.schemas import DeliveryView

TEST_SECONDS = 20.0  # longer than one attempt takes
POLL_SECONDS = 0.25
Number = Annotated[int, typer.Argument(metavar="WEBHOOK", help="Its number, as `melo webhook list` shows it.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Webhooks: other programs hear of new versions and moved aliases.",
        epilog=example("melo webhook add https://example.org/melo --events version,alias"),
        no_args_is_help=True,
    )
    app.add_typer(group, name="webhook")
    group.command(
        epilog=example("melo webhook add https://example.org/melo --events version,alias --collection facts")
    )(add)
    group.command("list", epilog=example("melo webhook list"))(list_)
    group.command(epilog=example("melo webhook remove 3 --reason 'moved to another address'"))(remove)
    group.command(epilog=example("melo webhook deliveries 3 --limit 20"))(deliveries)
    group.command("test", epilog=example("melo webhook test 3"))(send_test)


def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where events are sent to, as POST requests.")],
    events: Annotated[
        str, typer.Option(help="What to tell of, with commas: " + ", ".join(WebhookEvent) + ".")
    ] = "version,alias",
    collection: Annotated[str | None, typer.Option(help="Only this collection's events.")] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Send events to an address, and print the secret that signs them: it is shown only this once."""
    call = invocation(context)
    names = [name.strip() for name in events.split(",") if name.strip()]
    unknown = sorted(set(names) - set(WebhookEvent))
    if unknown or not names:
        raise CommandError(
            "No such event",
            f"--events knows no {', '.join(unknown) or 'empty list'}.",
            f"Name some of {', '.join(WebhookEvent)}.",
        )
    with call.client() as client:
        made = client.create_webhook(url, events=names, collection=collection, description=description)
    if as_json:
        print_json(made)
        return
    call.out.print(f"Webhook {made.id} is told of {', '.join(made.events)}.", markup=False)
    call.out.print(f"Its secret, shown this once: {made.secret}", markup=False)
    call.err.print(f"Try it with: melo webhook test {made.id}", markup=False)


def list_(
    context: typer.Context,
    removed: Annotated[bool, typer.Option("--removed", help="Also those that were removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the webhooks, and how many events wait for each."""
    call = invocation(context)
    with call.client() as client:
        found = client.webhooks(removed=removed)
    if as_json:
        print_json(found)
        return
    columns = ["webhook#", "url", "events", "collection", "waiting#", "by", "since", "removed", "description"]
    rows = [
        [
            each.id,
            each.url,
            ", ".join(each.events),
            each.collection or "all",
            each.waiting,
            each.created_by,
            each.created_at,
            each.removed_at,
            each.description,
        ]
        for each in found
    ]
    table(call.out, columns, rows, empty="No webhooks.")


def remove(
    context: typer.Context,
    webhook: Number,
    reason: Annotated[str, typer.Option(help="Why; it is kept for good.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop sending to a webhook. Waiting events are dropped, and the secret is deleted."""
    call = invocation(context)
    if not yes:
        require_confirmed(f"Remove webhook {webhook}, for good?", "Nothing was removed")
    with call.client() as client:
        gone = client.remove_webhook(webhook, reason)
    if as_json:
        print_json(gone)
    else:
        call.out.print(f"Webhook {gone.id} is removed.", markup=False)


def deliveries(
    context: typer.Context,
    webhook: Number,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what was sent, what waits, and what failed, newest first."""
    call = invocation(context)
    with call.client() as client:
        found = client.deliveries(webhook, limit=limit)
    if as_json:
        print_json(found)
        return
    columns = ["delivery#", "event#", "type", "state", "attempts#", "status#", "made", "next attempt", "error"]
    rows = [
        [
            each.id,
            each.event_seq,
            each.type,
            each.state,
            each.attempts,
            each.last_status,
            each.created_at,
            each.next_at,
            each.last_error,
        ]
        for each in found
    ]
    table(call.out, columns, rows, empty="Nothing was sent yet.")


def send_test(context: typer.Context, webhook: Number, as_json: AsJson = False) -> None:
    """Send a test message, and wait for the outcome; status 1 unless it arrives."""
    call = invocation(context)
    with call.client() as client, call.err.status("waiting for the receiver"):
        sent = client.test_webhook(webhook)
        found = _ended(client, webhook, sent)
    if as_json:
        print_json(found)
    if found.state == "delivered":
        if not as_json:
            call.out.print(f"It arrived: the receiver answered {found.last_status}.", markup=False)
        return
    if found.state == "waiting":
        raise CommandError(
            "Nothing was sent", f"The message waits since {TEST_SECONDS:g} seconds.",
            "Is the relay running? `melo status` shows it.",
        )  # fmt: skip
    raise CommandError(
        "The message did not arrive",
        found.last_error or "The receiver did not take it.",
        "See that the address is right and answers with a status of 200 to 299.",
    )


def _ended(client: "MeloClient", webhook: int, sent: "DeliveryView") -> "DeliveryView":
    """Return the delivery once it has ended, or as it is where that takes too long."""
    deadline = time.monotonic() + TEST_SECONDS
    while sent.state == "waiting" and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        sent = next((each for each in client.deliveries(webhook) if each.id == sent.id), sent)
    return sent
