"""`melo batch review`: go through the near misses that a batch's edits would answer, and turn them into guards."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.preflight import is_in_preflight, taken
from cli.show import visible
from cli.warnings import show_warnings
from registry.base.vocabulary import BatchState, Priority
from registry.base.whole_files import new_file

if TYPE_CHECKING:
    from registry.batches.schemas import BatchView
    from registry.edits.schemas import ActiveEditView
    from registry.jobs.schemas import NearMiss

GUARD, NEXT, QUIT = "g", "n", "q"
REJECTABLE = (BatchState.SUBMITTED, BatchState.FAILED, BatchState.CANCELLED)
KEYS = "[g] make it a guard  [n] next  [q] quit"


def add_to(group: typer.Typer) -> None:
    """Add the command to the group `melo batch`."""
    add_command(group, review, "melo batch review 3")


def review(
    call: Invocation,
    batch: Annotated[int, typer.Argument(metavar="BATCH", min=1, help="The batch's number.")],
) -> None:
    """Choose guards among the near misses that the batch's edits would answer, and write the batch with them to a file.

    Before them it shows what the edits replace, and warnings of what cannot be seen in their texts.

    Nothing is changed: the last lines say how to reject the batch and submit the file.
    """
    found = call.client.batch(batch)
    if not call.as_json:
        show_warnings(call.out, found)
    misses = _taken(found)
    records = {
        "near_misses": [{"edit": edit_id, **miss.model_dump(mode="json")} for edit_id, miss in misses],
        "replacements": found.replacements,
        "warnings": found.warnings,
    }
    call.emit(records, lambda: _review(call, found, misses))


def _review(call: Invocation, batch: "BatchView", misses: "Sequence[tuple[int, NearMiss]]") -> None:
    """Ask about each near miss, and write the file. Raises CommandError."""
    if batch.state not in REJECTABLE:
        raise CommandError(
            "The batch is decided",
            f"Batch {batch.id} is {batch.state.value}.",
            "Give an active edit a guard: melo guard add EDIT PROMPT --reason …",
        )
    if not misses:
        call.out.print(f"No edit of batch {batch.id} would answer a near miss.")
        return
    chosen = _choose(call, batch, misses)
    if not chosen:
        call.out.print("No guard was chosen; nothing was written.")
        return
    path = Path(f"batch-{batch.id}-with-guards.jsonl")
    _write(path, call.client.edits(batch.collection, batch=batch.id, limit=None), chosen)
    call.out.print(_told(batch, path, sum(map(len, chosen.values()))))


def _taken(batch: "BatchView") -> "list[tuple[int, NearMiss]]":
    """Return the near misses that edits would answer. Raises CommandError where none were tried."""
    if batch.preflight is None or batch.preflight.report is None:
        if is_in_preflight(batch):
            raise CommandError(
                "The preflight is not done yet",
                f"The near misses of batch {batch.id} have not been tried yet.",
                f"Wait for it: melo batch show {batch.id} --watch",
            )
        raise CommandError(
            "There was no preflight",
            f"Batch {batch.id} has no report of a preflight, so no near misses were tried.",
            f"Ask for one (`melo collection policy {batch.collection} --preflight train --reason …`), and submit the "
            "batch again.",
        )
    return taken(batch)


def _choose(call: Invocation, batch: "BatchView", misses: "Sequence[tuple[int, NearMiss]]") -> dict[int, list[str]]:
    """Ask which near misses become guards; return them by edit. Raises CommandError where nobody can answer."""
    prompts = {edit.id: edit.prompt for edit in batch.edits}
    chosen: dict[int, list[str]] = {}
    for number, (edit_id, miss) in enumerate(misses, 1):
        about = f" ({prompts[edit_id]})" if edit_id in prompts else ""
        said = f"\n  → {miss.answer}" if miss.answer is not None else ""
        call.out.print(
            Text(
                visible(
                    f"{number} of {len(misses)}, {miss.kind}: edit {edit_id}{about} would answer\n  {miss.text}{said}"
                )
            )
        )
        key = _key(call)
        if key == QUIT:
            break
        if key == GUARD:
            chosen.setdefault(edit_id, []).append(miss.text)
    return chosen


def _key(call: Invocation) -> str:
    """Read one of the three keys. Raises CommandError."""
    call.out.print(Text(KEYS, style="dim"))
    while True:
        try:
            key = typer.getchar().lower()
        except (EOFError, OSError):
            key = ""
        if not key:
            raise CommandError(
                "Nothing was written", "There is no terminal to choose at.", "Run it on a terminal, or with --json."
            )
        if key in (GUARD, NEXT, QUIT):
            return key


def _write(path: Path, edits: "Sequence[ActiveEditView]", chosen: Mapping[int, Sequence[str]]) -> None:
    """Write the batch's edits, one a line, with the chosen texts added to their guards. Raises CommandError."""
    lines = [json.dumps(_record(edit, chosen.get(edit.id, ())), ensure_ascii=False) for edit in edits]
    try:
        with new_file(path, replace=True) as stream:
            stream.write(("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise CommandError("The file cannot be written", f"{path}: {error.strerror}.", "Try another folder.") from None


def _record(edit: "ActiveEditView", guards: Sequence[str]) -> dict[str, Any]:
    unchanged = list(dict.fromkeys([*edit.unchanged, *guards]))
    whole = {
        "prompt": edit.prompt,
        "target": edit.target,
        "alternatives": edit.alternatives,
        "rephrases": edit.rephrases,
        "unchanged": unchanged,
        "kind": edit.kind.value,
        "author": edit.author,
        "reason": edit.reason,
        "source": edit.source,
        "replaces": edit.replaces,
    }
    return {name: value for name, value in whole.items() if value not in ("", [], None)}


def _told(batch: "BatchView", path: Path, guards: int) -> str:
    """Say what was written, and how to continue with it."""
    submit = ["melo", "edit", "submit", str(path), "--collection", batch.collection]
    if batch.message:
        submit += ["--message", batch.message]
    if batch.priority is not Priority.NORMAL:
        submit += ["--priority", batch.priority.value]
    if batch.deadline is not None:
        submit += ["--deadline", batch.deadline.isoformat()]
    if batch.training:
        submit += ["--training", json.dumps(batch.training)]
    many = "1 guard" if guards == 1 else f"{guards} guards"
    return (
        f"{path} has the batch with {many} more. To take it in the place of batch {batch.id}:\n"
        f"  melo batch reject {batch.id} --reason 'submitted again with guards'\n"
        f"  {visible(shlex.join(submit))}"
    )
