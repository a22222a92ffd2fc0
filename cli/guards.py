"""`melo guard`: prompts that an edit leaves to the base model."""

from typing import Annotated

import typer

from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.follow import go_on
from cli.invocation import Invocation
from cli.options import Approve, Reason, Wait
from cli.show import table


def register(app: typer.Typer) -> None:
    """Add the group `guard`."""
    shown = "melo guard add 12 'When was Acme founded?' --reason 'got the name of its CEO'"
    group = add_group(app, "guard", "Guards: prompts that an edit leaves to the base model.", shown)
    add_command(group, add, shown)
    add_command(group, list_, "melo guard list facts")


def add(
    call: Invocation,
    edit: Annotated[int, typer.Argument(metavar="EDIT", min=1, help="The active edit that answered wrongly.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What it must leave to the base model.")],
    reason: Reason,
    approve: Approve = False,
    wait: Wait = False,
) -> None:
    """Make an edit leave prompts to the base model, such as one that it answered wrongly.

    Guards are approved like any change, and nothing is trained. A query that is nearer in meaning to a guard than to
    the edit stays with the base model.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise CommandError("Nothing to guard", "A prompt is empty.", "Give the question that was answered wrongly.")
    batch = call.client.guard(edit, prompts, reason)
    new = batch.edits[0]
    call.say(
        f"Batch {batch.id} was submitted: edit {new.id}, with {len(new.unchanged)} guards, is to replace edit {edit}."
    )
    call.emit(go_on(call, batch, approve=approve, wait=wait))


def list_(call: Invocation, collection: Annotated[str, typer.Argument(help="The collection's name.")]) -> None:
    """List the guards of a collection's active edits."""
    found = [edit for edit in call.client.edits(collection, active=True, limit=None) if edit.unchanged]
    rows = [[edit.id, edit.prompt, "\n".join(edit.unchanged)] for edit in found]
    records = [{"edit": edit.id, "prompt": edit.prompt, "guards": edit.unchanged} for edit in found]
    empty = "No guards: `melo guard add EDIT PROMPT --reason …` adds one."
    call.emit(records, lambda: table(call.out, ["edit#", "prompt", "guards"], rows, empty))
