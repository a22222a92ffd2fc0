"""What a preflight found about a batch, as whoever decides on it reads it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from cli.errors import in_flags
from cli.findings import SHOWN, show_reports
from cli.show import answer_of, asked_of, table, visible
from cli.warnings import show_warnings
from registry.base.vocabulary import JobState
from registry.jobs.preflights import tried

if TYPE_CHECKING:
    from rich.console import Console

    from registry.batches.schemas import BatchView
    from registry.jobs.schemas import EditPreflight, NearEdit, NearMiss

SHOWN_EDITS = 100
SHOWN_ANSWER = 60  # characters


def is_in_preflight(batch: "BatchView") -> bool:
    """Whether its preflight is not over yet."""
    return batch.preflight is not None and batch.preflight.state in (JobState.QUEUED, JobState.RUNNING)


def show_preflight(console: "Console", batch: "BatchView") -> None:
    """Print warnings, a row for each edit and, under the table, the remedies for those that conflict with others."""
    found = {each.edit_id: each for each in (batch.preflight and batch.preflight.report) or []}
    has_trained = any(each.trained for each in found.values())
    block = ["with its block"] if has_trained else []
    columns = ["edit#", "prompt", "answers now", "target", *block, "near edits", "look at"]
    rows: list[list[object]] = []
    for edit in batch.edits[:SHOWN_EDITS]:
        preflight = found.get(edit.id)
        trained = [_trained(preflight, edit.target)] if has_trained else []
        now, near = preflight and _now(preflight), _near(preflight)
        verdict = _verdict(batch, edit.id, preflight)
        rows.append([edit.id, asked_of(edit), now, answer_of(edit), *trained, near, verdict])
    show_warnings(console, batch)
    table(console, columns, rows, empty="No edits.")
    if batch.job is not None:  # it is decided
        return
    ways = [(edit_id, way) for edit_id, each in found.items() for way in each.remedies if edit_id not in batch.declined]
    for edit_id, way in ways[:SHOWN]:
        console.print(Text(visible(in_flags(f"Edit {edit_id}: {way[:1].lower()}{way[1:]}")), style="yellow"))
    if len(ways) > SHOWN:
        console.print(f"… and {len(ways) - SHOWN} more: melo batch show {batch.id} --json")
    # The table has already shown the conflicts.
    reports = [each.trained.model_copy(update={"conflicts": []}) for each in found.values() if each.trained]
    show_reports(console, batch, reports)
    _show_near_misses(console, batch, found)


def taken(batch: "BatchView") -> "list[tuple[int, NearMiss]]":
    """Return the near misses that an edit of the batch would answer, each with that edit, in the order of the edits."""
    report = (batch.preflight and batch.preflight.report) or []
    kept = {preflight.edit_id for preflight in report} - set(batch.declined)
    found = [each for preflight in report if preflight.edit_id in kept for each in preflight.near_misses]
    return sorted(((each.by_edit, each) for each in found if each.by_edit in kept), key=lambda item: item[0])


def _show_near_misses(console: "Console", batch: "BatchView", found: "Mapping[int, EditPreflight]") -> None:
    """Print those that an edit would take, the share that all leave alone, and how to make one a guard."""
    all_tried = tried(found.values(), found.keys() - set(batch.declined))
    if not all_tried.count:
        return
    all_taken = taken(batch)
    for edit_id, miss in all_taken[:SHOWN]:
        said = f" → {_short(miss.answer)!r}" if miss.answer is not None else ""
        console.print(
            Text(visible(f"Edit {edit_id} would also answer: {miss.text!r} ({miss.kind}){said}"), style="yellow")
        )
    if len(all_taken) > SHOWN:
        console.print(f"… and {len(all_taken) - SHOWN} more: melo batch show {batch.id} --json")
    console.print(f"{all_tried.left_alone} of {all_tried.count} near misses ({all_tried.share:.1%}) are left alone.")
    if all_taken:
        console.print(
            f"What an edit must leave to the base model becomes its guard: `melo batch review {batch.id}`; of one that "
            "is active: `melo guard add EDIT PROMPT --reason …`.",
        )


def _now(preflight: "EditPreflight") -> str:
    by = f" (edit {preflight.answered_by})" if preflight.answered_by else ""
    return f"{_short(preflight.answer_now)}{by}"


def _trained(preflight: "EditPreflight | None", target: str) -> str | None:
    if preflight is None or preflight.trained is None:
        return None
    return _short(preflight.trained.answer or target)


def _near(preflight: "EditPreflight | None") -> str | None:
    if preflight is None or not preflight.near:
        return None
    return "\n".join(_place(each) for each in preflight.near)


def _place(near: "NearEdit") -> str:
    """Describe a near edit, marking those of the batch itself and those outside the radius."""
    return (
        f"{near.edit_id}{' (same batch)' if near.in_batch else ''} at {near.distance:.2f}"
        f"{'' if near.inside else ', outside'}: {_short(near.target)}"
    )


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= SHOWN_ANSWER else line[:SHOWN_ANSWER] + "…"


def _verdict(batch: "BatchView", edit_id: int, preflight: "EditPreflight | None") -> Text | None:
    if edit_id in batch.declined:
        return Text("left out", style="dim")
    if preflight is None:
        return None
    said = []
    if any(each.is_contradiction for each in preflight.near):
        said.append("near contradiction")
    if any(each.is_duplicate for each in preflight.near):
        said.append("near duplicate")
    if preflight.trained and not preflight.trained.reproduced:
        said.append("not learned")
    if preflight.trained and preflight.trained.unchanged_changed:
        said.append("changes what must not")
    return Text(", ".join(said), style="yellow")
