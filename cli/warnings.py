"""What a reviewer could not see in a batch's edits: what they replace, and warnings about their texts."""

from typing import TYPE_CHECKING

from rich.text import Text

from cli.findings import SHOWN
from cli.show import table

if TYPE_CHECKING:
    from rich.console import Console

    from registry.batches.schemas import BatchView, ReplacingEdit


def show_warnings(console: "Console", batch: "BatchView") -> None:
    """Print what the batch's edits take the place of, and the warnings; nothing where there are none."""
    shown = batch.replacements[:SHOWN]
    if shown:
        count = batch.replacement_count
        title = "1 edit replaces another one:" if count == 1 else f"{count} edits replace others:"
        console.print(Text(title, style="bold"))
        columns = ["edit#", "new prompt and target", "replaces#", "old prompt and target", "distance#"]
        table(console, columns, [_row(each) for each in shown], empty="")
    _more(console, batch, batch.replacement_count - len(shown))
    for warning in batch.warnings[:SHOWN]:
        console.print(Text(f"Edit {warning.edit_id}: {warning.detail}", style="bold yellow"))
    _more(console, batch, len(batch.warnings) - SHOWN)


def _row(each: "ReplacingEdit") -> list[object]:
    before = "(the same prompt)" if each.same_prompt else each.replaced_prompt
    return [
        each.edit_id,
        f"{each.prompt}\n→ {each.target}",
        each.replaced_id,
        f"{before}\n→ {each.replaced_target}",
        None if each.distance is None else f"{each.distance:.2f}",
    ]


def _more(console: "Console", batch: "BatchView", count: int) -> None:
    if count > 0:
        console.print(f"… and {count} more: melo batch show {batch.id} --json")
