"""Output of records: tables for people, plain JSON for programs.

Records hold what others wrote. Whatever is printed goes through `Screen` or `print_json`: neither lets a character
through that controls a terminal, hides, or turns the direction of what follows.
"""

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from registry.edits.schemas import EditView


# Control and format characters, halves of surrogate pairs, and the separators of lines and paragraphs.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


class Screen(Console):
    """A console that shows characters which would act on the terminal, such as ESC, as their escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape all texts, also those in tables and progress bars; what rich itself sends to the terminal stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def render_str(self, text: str, **given: Any) -> Text:
        """Escape before rich drops the characters of which it knows that they act on a terminal."""
        return super().render_str(visible(text), **given)


def print_json(value: Any) -> None:
    """Print a value as JSON: a pydantic model, a list of them, or plain values."""
    sys.stdout.write(escaped(json.dumps(_plain(value), ensure_ascii=False, indent=2)) + "\n")


def escaped(json_text: str) -> str:
    """Return JSON of the same meaning in which no character acts on a terminal."""
    return _each_unseen(json_text, lambda character: json.dumps(character)[1:-1].replace("\x7f", "\\u007f"))


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


def asked_of(edit: "EditView") -> str | Text:
    """Return the prompt with all its rephrases, as a reviewer has to read them."""
    if edit.erased_at is not None:
        return prompt_of(edit)
    return "\n".join([edit.prompt, *(f"or: {rephrase}" for rephrase in edit.rephrases)])


def visible(text: str) -> str:
    """Escape control and direction characters: a stored prompt must not control the reader's terminal."""
    return _each_unseen(text, _escape)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _each_unseen(text: str, escape: Callable[[str], str]) -> str:
    """Replace every character that acts on a terminal, except the ends of lines and tabs."""
    if text.isprintable():
        return text
    return "".join(
        escape(each) if unicodedata.category(each) in _UNSEEN and each not in "\n\t" else each for each in text
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
