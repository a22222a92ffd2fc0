"""`melo explain`, `melo answers`: where an answer came from, and which edits answer how often."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.commands import add_command, add_group
from cli.invocation import Invocation
from cli.options import Collection, Reason, require_confirmed
from cli.show import fields, table
from cli.times import earlier

if TYPE_CHECKING:
    from rich.console import Console

    from registry.answers.schemas import ActingEdit, ConsideredEdit, ExplainedAnswer

SHOWN_TEXT = 28  # characters of a question or an answer in a list
Response = Annotated[str, typer.Argument(metavar="RESPONSE_ID", help="The response's id, such as chatcmpl-….")]


def register(app: typer.Typer) -> None:
    add_command(app, explain, "melo explain chatcmpl-5f0c6a1e6c3d4d7a9a430d9f6a2f0c11")
    group = add_group(
        app,
        "answers",
        "The log of answers, which a collection's policy switches on: list them, count which edits gave them.",
        "melo answers usage facts --never",
    )
    add_command(group, list_, "melo answers list facts --edit 12 --since 7d")
    add_command(group, usage, "melo answers usage facts --never")
    add_command(group, erase, "melo answers erase 'Jo Doe' --reason 'request 2026-17' --dry-run")


def explain(call: Invocation, response: Response) -> None:
    """Say which edit gave an answer, who made and approved it and why, or why none did."""
    found = call.client.explain(response)
    call.emit(found)
    for each in found.answers if not call.as_json else ():
        _explain(call.out, each, several=len(found.answers) > 1)


def list_(
    call: Invocation,
    collection: Collection,
    edit: Annotated[int | None, typer.Option(min=1, help="Only those that this edit gave.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those from then on: ISO 8601, or 90m, 2h, 7d ago.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List logged answers, newest first."""
    moment = earlier(since) if since is not None else None
    found = call.client.answers(collection, edit=edit, since=moment, limit=limit)
    columns = ["response", "asked", "by", "version#", "edit#", "question", "answer"]
    rows = [
        [each.response_id + (f" [{each.choice}]" if each.choice else ""), each.asked_at, each.asked_by, each.version,
         each.edit_id, _short(each.question), _short(each.answer)]
        for each in found
    ]  # fmt: skip
    empty = f"No answer is logged; `melo collection show {collection}` says what is."
    call.emit(found, lambda: table(call.out, columns, rows, empty=empty))


def usage(
    call: Invocation,
    collection: Collection,
    never: Annotated[bool, typer.Option("--never", help="Only edits that act and never answered.")] = False,
) -> None:
    """Count the logged answers that each edit gave, most first; and name those that never answered."""
    total = call.client.usage(collection)
    found = call.client.edit_usage(collection, active=True if never else None)
    found = sorted((each for each in found if not never or each.answers == 0), key=lambda each: -each.answers)
    if total.since is None:
        call.say(Text(f"No answer is logged; `melo collection show {collection}` says what is.", style="yellow"))
    else:
        share = "" if total.log_share == 1 else f" ({total.log_share:.3g} of all are logged now)"
        call.say(
            f"Since {total.since.astimezone():%Y-%m-%d %H:%M}: {total.answers:,} logged answers{share}, "
            f"{total.by_edits:,} of them by {total.edits:,} edit{'' if total.edits == 1 else 's'}."
        )
    columns = ["edit#", "answers#", "first", "last", "up#", "down#", "active since#", "prompt", "target"]
    rows = [
        [each.edit_id, each.answers, each.first_at, each.last_at, each.thumbs_up, each.thumbs_down, each.active_since,
         each.prompt, each.target]
        for each in found
    ]  # fmt: skip
    empty = "Every edit that acts has answered." if never else "No edits."
    call.emit({"total": total, "edits": found}, lambda: table(call.out, columns, rows, empty=empty))


def erase(
    call: Invocation,
    person: Annotated[str, typer.Argument(metavar="NAME", help="The person whose texts are erased.")],
    reason: Reason,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase texts that mention a person, or that the person wrote, from the log of answers and from feedback."""
    if not (dry_run or yes):
        require_confirmed("Erase these texts, for good?", "Nothing was erased")
    done = call.client.erase_answers(person, reason, dry_run=dry_run)
    went = "Would go" if dry_run else "Gone"
    call.emit(done, lambda: call.out.print(f"{went}: the text of {done.answers} answers and {done.feedback} feedback."))


def _short(text: str | None) -> str | None:
    """Return the beginning of a text, for a list: `melo explain` shows the whole."""
    return text if text is None or len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"


def _explain(console: "Console", found: "ExplainedAnswer", *, several: bool) -> None:
    console.print(Text(f"{found.response_id}" + (f", choice {found.choice}" if several else ""), style="bold"))
    fields(
        console,
        [
            ("why", found.why),
            ("to do", found.remedy),
            ("version", f"{found.collection}@{found.version or 'base'}, asked for as {found.model}"),
            ("digest", found.digest),
            ("asked", found.asked_at),
            ("by", found.asked_by),
            ("question", found.question),
            ("answer", found.answer),
            ("text erased", found.erased_at),
        ],
    )
    if found.edit is not None:
        fields(console, _edit(found.edit))
    rows = [
        [each.edit, each.prompt or None, each.target or None, f"{each.distance:.3f}",
         None if each.score is None else f"{each.score:.3f}", each.covers, _against(each)]
        for each in found.considered
    ]  # fmt: skip
    if rows:
        columns = ["considered edit#", "prompt", "target", "distance#", "score#", "covers", "against it"]
        table(console, columns, rows, empty="")


def _edit(edit: "ActingEdit") -> list[tuple[str, object]]:
    approvals = "; ".join(
        f"{each.actor} ({each.role.value})" + (f": {each.reason}" if each.reason else "") for each in edit.approvals
    )
    erased = edit.erased_at is not None
    return [
        ("edit", f"{edit.id}, of batch {edit.batch_id}" + (", whose content was erased" if erased else "")),
        ("prompt", edit.prompt),
        ("target", edit.target),
        ("author", edit.author),
        ("submitted by", edit.submitted_by),
        ("approved by", approvals),
        ("reason", edit.reason),
        ("source", edit.source),
    ]


def _against(found: "ConsideredEdit") -> str | None:
    if found.guard:
        return "a guard is nearer"
    return f"rule: {found.rule}" if found.rule else None
