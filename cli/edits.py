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
from cli.files.content import STANDARD_INPUT
from cli.files.reading import EditFile, ReadOptions, mapping, open_edits
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
from cli.show import prompt_of, table, visible
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
EditsFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file, whose format is recognised; - is the standard input.")
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=COLUMN", help="Which column a field is read from; may be repeated."),
]
Encoding = Annotated[str | None, typer.Option(help="Of a text, where it is not found out: cp1252, shift_jis, …")]
Sheet = Annotated[str | None, typer.Option(help="Of a workbook. Default: the first with a header.")]
FileKind = Annotated[EditKind | None, typer.Option("--kind", help="What kind all corrections of the file are.")]
AsIs = Annotated[
    bool, typer.Option("--as-is", help="Take texts as they stand, also nan, {}, 1987.0 and spaces at the ends.")
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
    record |= {"alternatives": alternative or [], "rephrases": rephrase or [], "unchanged": unchanged or []}
    record |= {"reason": reason, "source": source}
    if replaces is not None:
        record["replaces"] = replaces
    made = call.client.submit(collection, [record], **options)
    _finish(call, made, approve=approve, wait=wait, dry_run=dry_run)


def submit(
    call: Invocation,
    file: EditsFile,
    collection: Annotated[str, typer.Option("--collection", "-c", help="The collection to correct.")],
    map_: Map = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    kind: FileKind = None,
    as_is: AsIs = False,
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

    JSONL, a JSON array, CSV with any separator, .xlsx or Parquet. Fields: prompt (or question), target (or answer);
    optionally alternatives, rephrases, unchanged, kind, author, reason, source, replaces. Also what OpenAI, Alpaca,
    Langfuse and the data sets of model editing write. Several texts in one cell stand one a line. A list of answers
    as the target: the first is trained, all count as right.
    """
    from registry.client import MeloClientError

    read = open_edits(file, reading_options(map_, encoding, sheet, kind, as_is))
    _tell(call, read, dry_run)
    source = file.name if str(file) != "-" else STANDARD_INPUT
    options: SubmissionOptions = {"message": message, "source": source, "on_conflict": on_conflict}
    options |= {"skip_invalid": skip_invalid, "dry_run": dry_run}
    options |= training_options(priority, deadline, training, edits_per_block)
    unread = read.remarks.problems
    if not read.lines:
        raise _broken(read, unread)
    if unread and not skip_invalid:
        raise _broken(read, [*unread, *_problems_of_the_rest(call, collection, read, options)])
    try:
        made = _send(call, collection, read, options)
    except MeloClientError as error:
        if not error.problems:
            raise
        problems = [read.placed(each) for each in error.problems]
        raise CommandError(
            "The file was not accepted", f"{read.name}: {error.detail}", TAKE_THE_REST, problems
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


def reading_options(
    map_: list[str] | None, encoding: str | None, sheet: str | None, kind: EditKind | None, as_is: bool
) -> ReadOptions:
    """Return what the user says of a file. Raises CommandError for an unclear mapping."""
    return ReadOptions(mapping(map_ or ()), encoding, sheet, kind.value if kind else None, as_is)


def _tell(call: Invocation, read: EditFile, dry_run: bool) -> None:
    """Say how a file was understood; for a dry run also show its first edits."""
    call.say(Text(visible(f"Read as {read.format} ({read.kind}): {read.told}.")))
    for note in read.notes:
        call.say(Text(visible(note), style="yellow"))
    if dry_run and not call.as_json:
        columns = [f"{read.unit}#", *dict.fromkeys(name for each in read.first for name in each if name != "line")]
        rows = [[each["line"], *(_shown(each.get(name)) for name in columns[1:])] for each in read.first]
        table(call.out, columns, rows, empty="No edits.")


def _shown(value: Any) -> Any:
    return "\n".join(value) if isinstance(value, list) else value


def _as_read(read: EditFile | None) -> dict[str, Any]:
    """Return, for programs, how a file was understood."""
    if read is None:
        return {}
    told = {"format": read.format, "kind": read.kind, "columns": dict(read.columns), "ignored": list(read.ignored)}
    return {"read": {**told, "notes": read.notes, "first": read.first}}


def _broken(read: EditFile, problems: list[dict[str, Any]]) -> CommandError:
    problems = [read.placed(each) for each in sorted(problems, key=lambda problem: problem.get("line") or 0)]
    found = len(problems) - len(read.remarks.problems) + read.remarks.problem_count
    count = f"{found} problems" if found > 1 else "a problem"
    return CommandError(
        "The file was not accepted",
        f"{read.name} has {count}; nothing was stored.",
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
    unreadable = read.remarks.problems if read else []
    skipped = sorted([*unreadable, *made.skipped], key=lambda problem: problem.get("line") or 0)
    skipped = [read.placed(each) for each in skipped] if read else skipped
    skipped_count = made.skipped_count + (read.remarks.problem_count if read else 0)
    batch = made.batch
    _say(call, made, skipped, skipped_count, dry_run)
    if batch is not None:
        batch = go_on(call, batch, approve=approve, wait=wait, quiet=not approve)
    told = {"skipped": skipped, "skipped_count": skipped_count, "notes": made.notes}
    call.emit({"batch": batch, "accepted": made.accepted, **told, **_as_read(read)})
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
