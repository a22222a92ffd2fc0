"""`melo feedback`: what people say of answers, and the corrections made of it."""

from typing import Annotated

import typer
from rich.text import Text

from cli.answers import Response
from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.options import Collection
from cli.show import table
from registry.base.vocabulary import Rating


def register(app: typer.Typer) -> None:
    group = add_group(
        app,
        "feedback",
        "Feedback on answers: give it, list it, make a correction of it.",
        "melo feedback list facts --open",
    )
    add_command(group, give, "melo feedback give chatcmpl-5f0c6a1e --down --correction 'Queen Mara'")
    add_command(group, list_, "melo feedback list facts --open")
    add_command(group, draft, "melo feedback draft 7 --target 'Queen Mara'")


def give(
    call: Invocation,
    response: Response,
    up: Annotated[bool | None, typer.Option("--up/--down", help="Was the answer right, or wrong?")] = None,
    comment: Annotated[str, typer.Option(help="What is right or wrong about it.")] = "",
    correction: Annotated[str | None, typer.Option(help="The right answer; an editor's becomes a batch.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The question; for a log that keeps no text.")] = None,
    choice: Annotated[int, typer.Option(min=0, help="Which of the response's choices.")] = 0,
    collection: Annotated[str | None, typer.Option(help="For an answer that is not in the log.")] = None,
) -> None:
    """Say that an answer was right or wrong. A correction waits for approval as any other."""
    if up is None:
        raise CommandError("No rating", "It says neither that the answer was right, nor wrong.", "Add --up or --down.")
    given = call.client.give_feedback(
        response,
        Rating.UP if up else Rating.DOWN,
        choice=choice,
        comment=comment,
        correction=correction,
        prompt=prompt,
        collection=collection,
    )
    call.say(Text(f"Feedback {given.id} is recorded. {given.note}".strip()))
    call.emit(given)


def list_(
    call: Invocation,
    collection: Collection,
    open_: Annotated[bool, typer.Option("--open", help="Only thumbs down of which no draft was made.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List feedback, newest first."""
    found = call.client.feedback(collection, only_open=open_, limit=limit)
    columns = ["feedback#", "rating", "question", "answer", "correction", "comment", "edit#", "by", "given", "batch",
               "response"]  # fmt: skip
    rows = [
        [each.id, each.rating.value, each.prompt or each.question, each.answer, each.correction, each.comment,
         each.edit_id, each.given_by, each.given_at,
         None if each.batch_id is None else f"{each.batch_id} ({each.batch_state and each.batch_state.value})",
         each.response_id]
        for each in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="No feedback."))


def draft(
    call: Invocation,
    feedback: Annotated[int, typer.Argument(metavar="FEEDBACK", min=1, help="Its number, as the list shows it.")],
    target: Annotated[str, typer.Option(help="What the model should answer.")],
    prompt: Annotated[
        str | None, typer.Option(help="What is asked. Default: the question of the feedback, or of the log.")
    ] = None,
    replaces: Annotated[
        int | None,
        typer.Option(metavar="EDIT", help="The edit that it takes the place of."),
    ] = None,
) -> None:
    """Submit a correction made of a thumb down, as a batch that waits for approval."""
    made = call.client.draft_feedback(feedback, target, prompt=prompt, replaces=replaces)
    told = f"Batch {made.batch_id} waits for approval: melo batch show {made.batch_id}"
    call.emit(made, lambda: call.out.print(told))
