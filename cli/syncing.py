"""`melo edit sync`: a list that is kept elsewhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.errors import SHOWN_PROBLEMS, problem_text
from cli.files.reading import EditFile
from cli.follow import go_on
from cli.invocation import Invocation
from cli.options import BatchOptions
from cli.sending import Corrected, EditsFile, FileOptions, as_read, send, tell
from cli.show import edits_in_words, table, visible
from registry.base.vocabulary import OnConflict

if TYPE_CHECKING:
    from registry.batches.schemas import SubmissionView, SyncView
    from registry.client import SubmissionOptions


def sync(
    call: Invocation,
    file: EditsFile,
    collection: Corrected,
    reading: FileOptions,
    batch: BatchOptions,
    retire_missing: Annotated[
        bool, typer.Option("--retire-missing", help="Retire the active edits whose prompts the file does not have.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")] = False,
) -> None:
    """Bring a collection up to a file: add what is new, replace what changed, leave what is equal. Done twice, it
    does nothing the second time, also while the first batch still waits.

    The changes are one batch. A file that says nothing of rephrases or alternatives leaves them as they are; guards
    are only ever added. --retire-missing then makes a version in which the others no longer act.
    """
    read = reading.read(file)
    tell(call, read, dry_run)
    options: SubmissionOptions = {"on_conflict": OnConflict.SYNC}
    options |= batch.of_submission() | reading.of_submission(file)
    planned = send(call, collection, read, {**options, "dry_run": True})
    assert planned.sync is not None
    missing, reason = planned.sync.missing, batch.message or f"not in {options['source']}"
    if missing and retire_missing:  # whoever may not retire is told so before anything is stored
        call.client.plan_retire(collection, missing, reason)
    made = planned if dry_run or not planned.accepted else send(call, collection, read, options)
    changes = made.sync or planned.sync
    retired = call.client.retire(collection, missing, reason) if missing and retire_missing and not dry_run else None
    _say(call, collection, read, made, changes, retire_missing=retire_missing, dry_run=dry_run)
    if retired is not None:
        call.say(f"{edits_in_words(len(missing))} retired: {collection}@{retired.number}.")
    stored = go_on(call, made.batch, approve=batch.approve, wait=batch.wait) if made.batch is not None else None
    skipped = [read.placed(each) for each in made.skipped]
    call.emit(
        {"batch": stored, "sync": changes, "retired": retired.number if retired else None, "skipped": skipped}
        | {"notes": made.notes, **as_read(read)}
    )


def _say(
    call: Invocation,
    collection: str,
    read: EditFile,
    made: "SubmissionView",
    changes: "SyncView",
    *,
    retire_missing: bool,
    dry_run: bool,
) -> None:
    """Say what changes, or would change."""
    would = "would be " if dry_run else ""
    call.say(
        f"{edits_in_words(changes.added)} {would}added, {changes.replaced:,} {would}replaced; "
        f"{changes.unchanged:,} unchanged."
    )
    if not call.as_json and changes.replacements:
        _replacements(call, read, changes)
    for problem in made.skipped[:SHOWN_PROBLEMS]:
        call.say(problem_text(read.placed(problem)))
    for note in made.notes:
        call.say(Text(visible(note), style="yellow"))
    if made.batch is not None:
        call.say(f"Batch {made.batch.id} was submitted with {edits_in_words(made.accepted)}.")
    if changes.missing and (dry_run or not retire_missing):
        _missing(call, collection, changes.missing, retire_missing=retire_missing)


def _replacements(call: Invocation, read: EditFile, changes: "SyncView") -> None:
    columns = [f"{read.unit}#", "prompt", "before", "after", "replaces edit#"]
    rows = [[each.line, each.prompt, each.before, each.target, each.edit] for each in changes.replacements]
    table(call.out, columns, rows[:SHOWN_PROBLEMS], empty="")


def _missing(call: Invocation, collection: str, missing: Sequence[int], *, retire_missing: bool) -> None:
    """List the active edits that the file does not have."""
    what = "would be retired" if retire_missing else "stay active: --retire-missing retires them"
    call.say(f"{edits_in_words(len(missing))} missing from the file {what}.")
    if not call.as_json:
        wanted = set(missing)
        edits = [each for each in call.client.edits(collection, active=True, limit=None) if each.id in wanted]
        rows = [[each.id, each.prompt, each.target] for each in edits[:SHOWN_PROBLEMS]]
        table(call.out, ["edit#", "prompt", "target"], rows, empty="")
