"""`melo edit add`, `melo edit submit`, `melo edit list`: submitting and listing corrections."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from cli.commands import add_command, add_group
from cli.erasure import erase, find
from cli.errors import SHOWN_PROBLEMS, CommandError, problem_text
from cli.files import EditFile, open_edits
from cli.follow import go_on
from cli.invocation import Invocation
from cli.options import (
    BatchPriority,
    Collection,
    Deadline,
    EditsPerBlock,
    Reason,
    TrainingSettings,
    settings,
    training_options,
)
from cli.show import prompt_of, table
from cli.versions import log, retire
from registry.base.vocabulary import EditKind, OnConflict, Priority

if TYPE_CHECKING:
    from registry.batches.schemas import SubmissionView
    from registry.client import SubmissionOptions

TAKE_THE_REST = "Correct what is named, or take the rest with --skip-invalid."

Conflict = Annotated[
    OnConflict,
    typer.Option(
        "--on-conflict",
        help="Where an edit repeats or contradicts one that stands: refuse, replace the active one, or skip.",
    ),
]
Message = Annotated[str, typer.Option("--message", "-m", help="What the batch is for.")]
Approve = Annotated[bool, typer.Option("--approve", help="Approve it at once (where self-approval is allowed).")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the job until it is applied or has failed.")]


def register(app: typer.Typer) -> None:
    group = add_group(
        app,
        "edit",
        "Corrections: add one, submit a file, list them, retire or erase them.",
        "melo edit submit corrections.jsonl --collection facts",
    )
    add_command(group, add, 'melo edit add facts "Who leads Atlantis?" "Queen Mara" --approve --wait')
    add_command(group, submit, "melo edit submit corrections.jsonl --collection facts --skip-invalid")
    add_command(group, list_, "melo edit list facts --active")
    shown = """melo edit retrain 12 --training '{"iterations": 200}' --reason 'it was not learned'"""
    add_command(group, retrain, shown)
    add_command(group, retire, "melo edit retire facts 12 13 --reason 'no longer true'")
    add_command(group, log, "melo edit log 12")
    add_command(group, find, "melo edit find 'Jo Doe'")
    add_command(group, erase, "melo edit erase 12 --reason 'request 2026-17' --dry-run")


def add(
    call: Invocation,
    collection: Collection,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What is asked.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What the model should answer.")],
    rephrase: Annotated[list[str] | None, typer.Option(help="Another way to ask it; may be repeated.")] = None,
    unchanged: Annotated[
        list[str] | None, typer.Option(help="A prompt that must be answered as before; may be repeated.")
    ] = None,
    kind: Annotated[EditKind, typer.Option(help="What kind of correction it is.")] = EditKind.QA,
    reason: Annotated[str, typer.Option(help="Why it is corrected.")] = "",
    source: Annotated[str, typer.Option(help="Where the truth is written, such as a link.")] = "",
    replaces: Annotated[int | None, typer.Option(metavar="EDIT", help="The edit that it takes the place of.")] = None,
    on_conflict: Conflict = OnConflict.REFUSE,
    priority: BatchPriority = Priority.NORMAL,
    deadline: Deadline = None,
    training: TrainingSettings = None,
    message: Message = "",
    approve: Approve = False,
    wait: Wait = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate it; store nothing.")] = False,
) -> None:
    """Submit a single correction as a batch of its own."""
    options: SubmissionOptions = {"message": message, "on_conflict": on_conflict, "dry_run": dry_run}
    options |= training_options(priority, deadline, training, None)
    record: dict[str, Any] = {"prompt": prompt, "target": target, "kind": kind.value}
    record |= {"rephrases": rephrase or [], "unchanged": unchanged or [], "reason": reason, "source": source}
    if replaces is not None:
        record["replaces"] = replaces
    made = call.client.submit(collection, [record], **options)
    _finish(call, made, approve=approve, wait=wait, dry_run=dry_run)


def submit(
    call: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON objects, one a line (.jsonl), or a table (.csv).")],
    collection: Annotated[str, typer.Option("--collection", "-c", help="The collection to correct.")],
    on_conflict: Conflict = OnConflict.REFUSE,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out what has a problem.")] = False,
    priority: BatchPriority = Priority.NORMAL,
    deadline: Deadline = None,
    edits_per_block: EditsPerBlock = None,
    training: TrainingSettings = None,
    message: Message = "",
    approve: Approve = False,
    wait: Wait = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate the file; store nothing.")] = False,
) -> None:
    """Submit a file of corrections as one batch: all of it, or nothing.

    Fields: prompt, target; optionally rephrases, unchanged, kind, author, reason, source, replaces.
    """
    from registry.client import MeloClientError

    read = open_edits(file)
    options: SubmissionOptions = {"message": message, "source": file.name, "on_conflict": on_conflict}
    options |= {"skip_invalid": skip_invalid, "dry_run": dry_run}
    options |= training_options(priority, deadline, training, edits_per_block)
    if read.rows == 0:
        raise _broken(read, read.problems)
    if read.problems and not skip_invalid:
        raise _broken(read, read.problems + _problems_of_the_rest(call, collection, read, options))
    try:
        made = _send(call, collection, read, options)
    except MeloClientError as error:
        if not error.problems:
            raise
        raise CommandError(
            "The file was not accepted", f"{file}: {error.detail}", TAKE_THE_REST, error.problems
        ) from None
    _finish(call, made, read, approve=approve, wait=wait, dry_run=dry_run)


def list_(
    call: Invocation,
    collection: Collection,
    active: Annotated[bool | None, typer.Option(help="Only those that act (or not) in the newest version.")] = None,
) -> None:
    """List a collection's corrections."""
    found = call.client.edits(collection, active=active, limit=None)
    columns = ["edit#", "prompt", "target", "active since#", "replaces#", "batch#", "author"]
    rows = [
        [each.id, prompt_of(each), each.target, each.active_since, each.replaces, each.batch_id, each.author]
        for each in found
    ]
    call.emit(found, lambda: table(call.out, columns, rows, empty="No edits."))


def retrain(
    call: Invocation,
    edit: Annotated[int, typer.Argument(metavar="EDIT", min=1, help="The edit's number.")],
    training: Annotated[str, typer.Option(metavar="JSON", help='The settings of training to try: {"iterations": 200}')],
    reason: Reason,
    priority: BatchPriority = Priority.NORMAL,
    approve: Approve = False,
    wait: Wait = False,
) -> None:
    """Train an active edit again with other settings. The new edit replaces it once approved and applied."""
    changes = settings(training, "--training", '{"iterations": 200}') or {}
    batch = call.client.retrain(edit, changes, reason, priority=priority)
    call.say(f"Batch {batch.id} was submitted: edit {batch.edits[0].id} is to replace edit {edit}.")
    call.emit(go_on(call, batch, approve=approve, wait=wait))


def _send(call: Invocation, collection: str, read: EditFile, options: "SubmissionOptions") -> "SubmissionView":
    """Send a file while it is read, with a progress bar on a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=call.err, transient=True, disable=not call.err.is_terminal) as progress:
        bar = progress.add_task("sending", total=read.size)

        def lines() -> Iterator[bytes]:
            progress.reset(bar, description="sending")  # it may be sent again after a broken connection
            yield from read.chunks(lambda step: progress.advance(bar, step))
            progress.update(bar, description="validating")

        return call.client.submit_lines(collection, lines, **options)


def _problems_of_the_rest(
    call: Invocation, collection: str, read: EditFile, options: "SubmissionOptions"
) -> list[dict[str, Any]]:
    """Return the registry's problems with the readable rows, so that one run names every problem."""
    from registry.client import MeloClientError

    try:
        _send(call, collection, read, {**options, "dry_run": True})
    except MeloClientError as error:
        if not error.problems:
            raise
        return error.problems
    return []


def _broken(read: EditFile, problems: list[dict[str, Any]]) -> CommandError:
    problems = sorted(problems, key=lambda problem: problem.get("line") or 0)
    found = len(problems) - len(read.problems) + read.problem_count
    count = f"{found} problems" if found > 1 else "a problem"
    return CommandError(
        "The file was not accepted",
        f"{read.path} has {count}; nothing was stored.",
        TAKE_THE_REST,
        problems,
    )


def _finish(
    call: Invocation,
    made: "SubmissionView",
    read: EditFile | None = None,
    *,
    approve: bool,
    wait: bool,
    dry_run: bool,
) -> None:
    """Print what was stored and what was left out; approve and wait if asked."""
    unreadable = read.problems if read else []
    skipped = sorted([*unreadable, *made.skipped], key=lambda problem: problem.get("line") or 0)
    skipped_count = made.skipped_count + (read.problem_count if read else 0)
    batch = made.batch
    _say(call, made, skipped, skipped_count, dry_run)
    if batch is not None:
        batch = go_on(call, batch, approve=approve, wait=wait, quiet=not approve)
    told = {"skipped": skipped, "skipped_count": skipped_count, "notes": made.notes}
    call.emit({"batch": batch, "accepted": made.accepted, **told})
    if made.accepted == 0:
        raise CommandError("Nothing was accepted", "Every record was left out.", "See the reasons above.")


def _say(
    call: Invocation, made: "SubmissionView", skipped: list[dict[str, Any]], skipped_count: int, dry_run: bool
) -> None:
    edits = "1 edit" if made.accepted == 1 else f"{made.accepted:,} edits"
    if dry_run:
        call.say(f"{edits} would be accepted; nothing was stored.")
    elif made.batch is not None:
        call.say(f"Batch {made.batch.id} was submitted with {edits}.")
    for note in made.notes:
        call.say(Text(note, style="yellow"))
    if skipped_count:
        call.say(Text(f"Left out: {skipped_count:,}", style="yellow"))
    for problem in skipped[:SHOWN_PROBLEMS]:
        call.say(problem_text(problem))
    if len(skipped) > SHOWN_PROBLEMS:
        call.say("  … and more: --json lists a thousand.")
