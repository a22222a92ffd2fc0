"""`melo guard`: prompts that an edit leaves to the base model."""

from typing import Annotated

import typer

from cli.edits import Approve, Wait
from cli.errors import CommandError
from cli.follow import go_on
from cli.invocation import invocation
from cli.show import AsJson, example, print_json, table


def register(app: typer.Typer) -> None:
    """Add the group `guard`."""
    shown = example("melo guard add 12 'When was Acme founded?' --reason 'got the name of its CEO'")
    group = typer.Typer(
        help="Guards: prompts that an edit leaves to the base model.", epilog=shown, no_args_is_help=True
    )
    app.add_typer(group, name="guard")
    group.command(epilog=shown)(add)
    group.command("list", epilog=example("melo guard list facts"))(list_)


def add(
    context: typer.Context,
    edit: Annotated[int, typer.Argument(metavar="EDIT", min=1, help="The active edit that answered wrongly.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What it must leave to the base model.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    approve: Approve = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Guard prompts against an edit, such as one that was answered wrongly.

    Guards are approved like any change, and nothing is trained. A query that is nearer in meaning to a guard than to
    the edit stays with the base model.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise CommandError("Nothing to guard", "A prompt is empty.", "Give the question that was answered wrongly.")
    call = invocation(context)
    with call.client() as client:
        batch = client.guard(edit, prompts, reason)
        if not as_json:
            call.out.print(
                f"Batch {batch.id} was submitted: edit {batch.edits[0].id}, with {len(batch.edits[0].unchanged)} "
                f"guards, is to replace edit {edit}."
            )
        batch = go_on(call, client, batch, approve=approve, wait=wait, quiet=as_json)
    if as_json:
        print_json(batch)


def list_(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(help="The collection's name.")],
    as_json: AsJson = False,
) -> None:
    """List the guards of a collection's active edits."""
    call = invocation(context)
    with call.client() as client:
        found = [edit for edit in client.edits(collection, active=True, limit=None) if edit.unchanged]
    if as_json:
        print_json([{"edit": edit.id, "prompt": edit.prompt, "guards": edit.unchanged} for edit in found])
        return
    rows = [[edit.id, edit.prompt, "\n".join(edit.unchanged)] for edit in found]
    table(
        call.out,
        ["edit#", "prompt", "guards"],
        rows,
        empty="No guards: `melo guard add EDIT PROMPT --reason …` adds one.",
    )
