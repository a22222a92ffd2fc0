"""Output of records: tables for people, plain JSON for programs."""

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from registry.edits.schemas import EditView


def print_json(value: Any) -> None:
    """Print a value as JSON: a pydantic model, a list of them, or plain values."""
    json.dump(_plain(value), sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table. Columns whose name ends in '#' are numbers; `empty` is printed where there are no rows."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column.endswith("#")
        shown.add_column(column.rstrip("#"), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell(value) for value in row))
    console.print(shown if shown.row_count else Text(empty, style="dim"), soft_wrap=False)


def fields(console: Console, pairs: Iterable[tuple[str, object]]) -> None:
    """Print one record, a name and a value a line, leaving out missing values."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", []):
            shown.add_row(name, cell(value))
    console.print(shown, soft_wrap=False)


def cell(value: object) -> Text:
    """Return a value as text that cannot alter the terminal, whatever a record contains."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(visible(str(value)))


def prompt_of(edit: "EditView") -> str | Text:
    """Return the prompt as it was submitted, unless its content was erased since."""
    return edit.prompt if edit.erased_at is None else Text("erased", style="dim")


def visible(text: str) -> str:
    """Escape control and direction characters: a stored prompt must not control the reader's terminal."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else f"\\u{ord(character):04x}"
        for character in text
    )


def duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    named = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(named[:2]) or "0 s"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    model: BaseModel | None = value if hasattr(value, "model_dump") else None
    return value if model is None else model.model_dump(mode="json")
