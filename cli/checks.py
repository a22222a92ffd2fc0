"""What a check found about a batch, as whoever decides on it reads it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from cli.findings import SHOWN, show_reports
from cli.show import prompt_of, table, visible
from registry.base.vocabulary import JobState
from registry.jobs.left_alone import tried

if TYPE_CHECKING:
    from rich.console import Console

    from registry.batches.schemas import BatchView
    from registry.jobs.schemas import EditCheck, NearEdit, NearMiss

SHOWN_EDITS = 100
SHOWN_ANSWER = 60  # characters


def is_checked(batch: "BatchView") -> bool:
    """Whether its check is not over yet."""
    return batch.check is not None and batch.check.state in (JobState.QUEUED, JobState.RUNNING)


def show_check(console: "Console", batch: "BatchView") -> None:
    """Print a row for each edit and, under the table, the remedies for those that conflict with others."""
    found = {each.edit_id: each for each in (batch.check and batch.check.report) or []}
    has_trained = any(each.trained for each in found.values())
    block = ["with its block"] if has_trained else []
    columns = ["edit#", "prompt", "answers now", "target", *block, "near edits", "look at"]
    rows: list[list[object]] = []
    for edit in batch.edits[:SHOWN_EDITS]:
        check = found.get(edit.id)
        trained = [_trained(check, edit.target)] if has_trained else []
        now = check and _now(check)
        rows.append(
            [edit.id, prompt_of(edit), now, edit.target, *trained, _near(check), _verdict(batch, edit.id, check)]
        )
    table(console, columns, rows, empty="No edits.")
    if batch.job is not None:  # it is decided
        return
    ways = [(edit_id, way) for edit_id, each in found.items() for way in each.remedies if edit_id not in batch.declined]
    for edit_id, way in ways[:SHOWN]:
        console.print(Text(visible(f"Edit {edit_id}: {way[:1].lower()}{way[1:]}"), style="yellow"))
    if len(ways) > SHOWN:
        console.print(f"… and {len(ways) - SHOWN} more: melo batch show {batch.id} --json")
    # The table has already shown the conflicts.
    reports = [each.trained.model_copy(update={"conflicts": []}) for each in found.values() if each.trained]
    show_reports(console, batch, reports)
    _show_near_misses(console, batch, found)


def taken(batch: "BatchView") -> "list[tuple[int, NearMiss]]":
    """Return the near misses that an edit of the batch would answer, each with that edit, in the order of the edits."""
    report = (batch.check and batch.check.report) or []
    kept = {check.edit_id for check in report} - set(batch.declined)
    found = [each for check in report if check.edit_id in kept for each in check.near_misses]
    return sorted(((each.by_edit, each) for each in found if each.by_edit in kept), key=lambda item: item[0])


def _show_near_misses(console: "Console", batch: "BatchView", found: "Mapping[int, EditCheck]") -> None:
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
    console.print(
        f"{all_tried.left_alone} of {all_tried.count} near misses ({all_tried.share:.1%}) are left alone.", markup=False
    )
    if all_taken:
        console.print(
            f"What an edit must leave to the base model becomes its guard: `melo batch review {batch.id}`; of one that "
            "is active: `melo guard add EDIT PROMPT --reason …`.",
            markup=False,
        )


def _now(check: "EditCheck") -> str:
    by = f" (edit {check.answered_by})" if check.answered_by else ""
    return f"{_short(check.answer_now)}{by}"


def _trained(check: "EditCheck | None", target: str) -> str | None:
    if check is None or check.trained is None:
        return None
    return target if check.trained.reproduced else _short(check.trained.answer or "")


def _near(check: "EditCheck | None") -> str | None:
    if check is None or not check.near:
        return None
    return "\n".join(_place(each) for each in check.near)


def _place(near: "NearEdit") -> str:
    """Describe a near edit, marking those of the batch itself and those outside the radius."""
    return (
        f"{near.edit_id}{' (same batch)' if near.in_batch else ''} at {near.distance:.2f}"
        f"{'' if near.inside else ', outside'}: {_short(near.target)}"
    )


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= SHOWN_ANSWER else line[:SHOWN_ANSWER] + "…"


def _verdict(batch: "BatchView", edit_id: int, check: "EditCheck | None") -> Text | None:
    if edit_id in batch.declined:
        return Text("left out", style="dim")
    if check is None:
        return None
    said = []
    if any(each.is_contradiction for each in check.near):
        said.append("near contradiction")
    if any(each.is_duplicate for each in check.near):
        said.append("near duplicate")
    if check.trained and not check.trained.reproduced:
        said.append("not learned")
    if check.trained and check.trained.unchanged_changed:
        said.append("changes what must not")
    return Text(", ".join(said), style="yellow")
