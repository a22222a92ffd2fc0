"""`melo webhook`: notify other programs of new versions and moved aliases."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.options import Reason, require_confirmed
from cli.show import table
from registry.base.vocabulary import WebhookEvent

if TYPE_CHECKING:
    from registry.webhooks.schemas import DeliveryView

TEST_SECONDS = 20.0  # longer than one attempt takes
POLL_SECONDS = 0.25
Number = Annotated[int, typer.Argument(metavar="WEBHOOK", help="Its number, as `melo webhook list` shows it.")]


def register(app: typer.Typer) -> None:
    group = add_group(
        app,
        "webhook",
        "Webhooks: tell other programs of new versions and moved aliases.",
        "melo webhook add https://example.org/melo --events version,alias",
    )
    add_command(group, add, "melo webhook add https://example.org/melo --events version,alias --collection facts")
    add_command(group, list_, "melo webhook list")
    add_command(group, remove, "melo webhook remove 3 --reason 'moved to another address'")
    add_command(group, deliveries, "melo webhook deliveries 3 --limit 20")
    add_command(group, test_, "melo webhook test 3")


def add(
    call: Invocation,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent to, as POST requests.")],
    events: Annotated[
        str, typer.Option(help="What to tell of, with commas: " + ", ".join(WebhookEvent) + ".")
    ] = "version,alias",
    collection: Annotated[str | None, typer.Option(help="Only this collection's events.")] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Send events to an address, and print the secret that signs them: it is shown only this once."""
    names = [name.strip() for name in events.split(",") if name.strip()]
    unknown = sorted(set(names) - set(WebhookEvent))
    if unknown or not names:
        raise CommandError(
            "No such event",
            f"--events has {', '.join(unknown) or 'an empty list'}.",
            f"Choose among {', '.join(WebhookEvent)}.",
        )
    made = call.client.create_webhook(url, events=names, collection=collection, description=description)
    call.say(f"Webhook {made.id} is told of {', '.join(made.events)}.")
    call.say(f"Its secret, shown this once: {made.secret}")
    call.emit(made, lambda: call.err.print(f"Try it with: melo webhook test {made.id}"))


def list_(
    call: Invocation,
    removed: Annotated[bool, typer.Option("--removed", help="Also those that were removed.")] = False,
) -> None:
    """List the webhooks, and how many events wait for each."""
    found = call.client.webhooks(removed=removed)
    columns = ["webhook#", "url", "events", "collection", "waiting#", "by", "since", "removed", "description"]
    rows = [
        [each.id, each.url, ", ".join(each.events), each.collection or "all", each.waiting, each.created_by,
         each.created_at, each.removed_at, each.description]
        for each in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="No webhooks."))


def remove(
    call: Invocation,
    webhook: Number,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop sending to a webhook. Waiting events are dropped, and the secret is deleted."""
    if not yes:
        require_confirmed(f"Remove webhook {webhook}, for good?", "Nothing was removed")
    gone = call.client.remove_webhook(webhook, reason)
    call.emit(gone, lambda: call.out.print(f"Webhook {gone.id} is removed."))


def deliveries(
    call: Invocation,
    webhook: Number,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List what was sent, what waits, and what failed, newest first."""
    found = call.client.deliveries(webhook, limit=limit)
    columns = [
        "delivery#",
        "event#",
        "type",
        "state",
        "attempts#",
        "status#",
        "made",
        "next attempt",
        "error",
        "waits for",
    ]
    rows = [
        [each.id, each.event_seq, each.type, each.state, each.attempts, each.last_status, each.created_at,
         each.next_at, each.last_error, each.waits_for or None]
        for each in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="Nothing was sent yet."))


def test_(call: Invocation, webhook: Number) -> None:
    """Send a test message, and wait for the outcome; status 1 unless it arrives."""
    with call.err.status("waiting for the receiver"):
        sent = call.client.test_webhook(webhook)
        found = _ended(call, webhook, sent)
    call.emit(found)
    if found.state == "delivered":
        call.say(f"It arrived: the receiver answered {found.last_status}.")
        return
    if found.state == "waiting":
        raise CommandError(
            "Nothing was sent", f"The message is still waiting after {TEST_SECONDS:g} seconds.",
            "Is the relay running? `melo status` shows it.",
        )  # fmt: skip
    raise CommandError(
        "The message did not arrive",
        found.last_error or "The receiver did not accept it.",
        "Check that the address is right and answers with a status from 200 to 299.",
    )


def _ended(call: Invocation, webhook: int, sent: "DeliveryView") -> "DeliveryView":
    """Return the delivery once it has ended, or as it is where that takes too long."""
    deadline = time.monotonic() + TEST_SECONDS
    while sent.state == "waiting" and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        sent = next((each for each in call.client.deliveries(webhook) if each.id == sent.id), sent)
    return sent
