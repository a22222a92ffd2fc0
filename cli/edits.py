"""`melo edit`: adding, submitting and listing corrections."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.commands import add_command, add_group
from cli.erasure import erase, find
from cli.errors import SHOWN_PROBLEMS, CommandError, problem_text
from cli.exporting import export
from cli.files.reading import EditFile
from cli.follow import go_on
from cli.invocation import Invocation
from cli.options import Approve, BatchOptions, BatchPriority, Collection, Reason, Wait, settings
from cli.sending import Corrected, EditsFile, FileOptions, as_read, send, tell
from cli.show import edits_in_words, prompt_of, table
from cli.syncing import sync
from cli.versions import log, retire
from registry.base.vocabulary import EditKind, OnConflict, Priority

if TYPE_CHECKING:
    from registry.batches.schemas import SubmissionView
    from registry.client import SubmissionOptions

Conflict = Annotated[
    OnConflict,
    typer.Option(
        "--on-conflict",
        help="Where an edit repeats or contradicts one that stands: refuse, replace the active one, skip, or sync.",
    ),
]


def register(app: typer.Typer) -> None:
    group = add_group(
        app,
        "edit",
        "Corrections: add one, submit a file, list them, retire or erase them.",
        "melo edit submit corrections.jsonl --collection facts",
    )
    add_command(group, add, 'melo edit add facts "Who leads Atlantis?" "Queen Mara" --approve --wait')
    add_command(group, submit, "melo edit submit corrections.jsonl --collection facts --skip-invalid")
    add_command(group, sync, "melo edit sync list.xlsx --collection facts --retire-missing --dry-run")
    add_command(group, export, "melo edit export facts facts.xlsx")
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
    batch: BatchOptions,
    alternative: Annotated[
        list[str] | None, typer.Option(help="Another answer that counts as right; may be repeated.")
    ] = None,
    rephrase: Annotated[list[str] | None, typer.Option(help="Another way to ask it; may be repeated.")] = None,
    unchanged: Annotated[
        list[str] | None, typer.Option(help="A prompt that must be answered as before; may be repeated.")
    ] = None,
    kind: Annotated[EditKind, typer.Option(help="What kind of correction it is.")] = EditKind.QA,
    reason: Annotated[str, typer.Option(help="Why it is corrected.")] = "",
    source: Annotated[str, typer.Option(help="Where the truth is written, such as a link.")] = "",
    replaces: Annotated[int | None, typer.Option(metavar="EDIT", help="The edit that it takes the place of.")] = None,
    on_conflict: Conflict = OnConflict.REFUSE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate it; store nothing.")] = False,
) -> None:
    """Submit a single correction as a batch of its own."""
    options: SubmissionOptions = {"on_conflict": on_conflict, "dry_run": dry_run}
    options |= batch.of_submission()
    record: dict[str, Any] = {"prompt": prompt, "target": target, "kind": kind.value}
    record |= {"alternatives": alternative or [], "rephrases": rephrase or [], "unchanged": unchanged or []}
    record |= {"reason": reason, "source": source}
    if replaces is not None:
        record["replaces"] = replaces
    made = call.client.submit(collection, [record], **options)
    _finish(call, made, batch, dry_run=dry_run)


def submit(
    call: Invocation,
    file: EditsFile,
    collection: Corrected,
    reading: FileOptions,
    batch: BatchOptions,
    on_conflict: Conflict = OnConflict.REFUSE,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out what has a problem.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate the file; store nothing.")] = False,
) -> None:
    """Submit a file of corrections as one batch: all of it, or nothing.

    JSONL, a JSON array, CSV with any separator, .xlsx or Parquet. Fields: prompt (or question), target (or answer);
    optionally alternatives, rephrases, unchanged, kind, author, reason, source, replaces. Also what OpenAI, Alpaca,
    Langfuse and the data sets of model editing write. Several texts in one cell stand one a line. A list of answers
    as the target: the first is trained, all count as right.
    """
    read = reading.read(file)
    tell(call, read, dry_run)
    options: SubmissionOptions = {"on_conflict": on_conflict, "skip_invalid": skip_invalid, "dry_run": dry_run}
    options |= batch.of_submission() | reading.of_submission(file)
    made = send(call, collection, read, options)
    _finish(call, made, batch, read, dry_run=dry_run)


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


def _finish(
    call: Invocation,
    made: "SubmissionView",
    options: BatchOptions,
    read: EditFile | None = None,
    *,
    dry_run: bool,
) -> None:
    """Print what was stored and what was left out; approve and wait if asked."""
    unreadable = read.remarks.problems if read else []
    skipped = sorted([*unreadable, *made.skipped], key=lambda problem: problem.get("line") or 0)
    skipped = [read.placed(each) for each in skipped] if read else skipped
    skipped_count = made.skipped_count + (read.remarks.problem_count if read else 0)
    batch = made.batch
    _say(call, made, skipped, skipped_count, dry_run)
    if batch is not None:
        batch = go_on(call, batch, approve=options.approve, wait=options.wait, quiet=not options.approve)
    told = {"skipped": skipped, "skipped_count": skipped_count, "notes": made.notes}
    call.emit({"batch": batch, "accepted": made.accepted, **told, **as_read(read)})
    if made.accepted == 0:
        raise CommandError("Nothing was accepted", "Every record was left out.", "See the reasons above.")


def _say(
    call: Invocation, made: "SubmissionView", skipped: list[dict[str, Any]], skipped_count: int, dry_run: bool
) -> None:
    edits = edits_in_words(made.accepted)
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
