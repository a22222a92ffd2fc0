"""Output of records: tables for people, plain JSON for programs.

Records hold what others wrote. Whatever is printed goes through `Screen` or `print_json`: neither lets a character
through that controls a terminal, is not seen, or turns the direction of what follows.
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

from registry.base.look_alikes import is_blank

if TYPE_CHECKING:
    from pydantic import BaseModel

    from registry.edits.schemas import EditView


# What stands for typographic characters on a terminal that has only ASCII; of some, as wide as what it replaces.
_IN_ASCII = str.maketrans(
    dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True))
    | dict(zip("‘’“”„«»‹›–—−·•×", '\'\'"""""<>---.*x', strict=True))
    | {"…": "...", "→": "->", "≥": ">=", "≤": "<="}
    | {chr(code): "*" for code in range(0x2800, 0x2900)}  # the dots of a spinner
)
_NARROWEST = {"time": 10, "text": 16}  # columns of the screen; what is broken into less is hard to read

# Control and format characters, halves of surrogate pairs, and the separators of lines and paragraphs.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


class Screen(Console):
    """A console that shows characters which would act on the terminal, such as ESC, as their escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape all texts, also those in tables and progress bars; what rich itself sends to the terminal stays."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else in_encoding(visible(segment.text), self.encoding)
            yield segment if segment.control else Segment(shown, segment.style)

    def render_str(self, text: str, **given: Any) -> Text:
        """Escape before rich drops the characters of which it knows that they act on a terminal."""
        return super().render_str(visible(text), **given)


def in_encoding(text: str, encoding: str) -> str:
    """Return a text as a terminal with this encoding can show it, with escapes for what it has no characters for."""
    if encoding.lower().startswith("utf"):
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_IN_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def print_json(value: Any) -> None:
    """Print a value as JSON: a pydantic model, a list of them, or plain values."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    sys.stdout.write(escaped(json.dumps(_plain(value), ensure_ascii=not is_unicode, indent=2)) + "\n")


def escaped(json_text: str) -> str:
    """Return JSON of the same meaning in which no character acts on a terminal."""
    return _each_unseen(json_text, lambda character: json.dumps(character)[1:-1].replace("\x7f", "\\u007f"))


def table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table. Columns whose name ends in '#' are numbers; `empty` is printed where there are no rows.

    On a screen that is too narrow for so many columns, each row is printed as a record, a name and a value a line.
    """
    found = [list(row) for row in rows]
    names = [column.rstrip("#") for column in columns]
    if not found:
        console.print(Text(empty, style="dim"), soft_wrap=False)
    elif _readable_width(names, found) > console.width:
        for number, row in enumerate(found):
            if number:
                console.print()
            fields(console, zip(names, row, strict=True))
    else:
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, column in zip(names, columns, strict=True):
            shown.add_column(name, justify="right" if column != name else "left", overflow="fold")
        for row in found:
            shown.add_row(*(_shown(console, value) for value in row))
        console.print(shown, soft_wrap=False)


def _readable_width(names: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Return the width below which a table's words would be broken, or its texts become towers of letters."""
    widths = []
    for name, *values in zip(names, *rows, strict=True):
        longest_word = max(map(len, name.split()), default=0)
        for value in values:
            kind = "number" if isinstance(value, int | float) else "time" if isinstance(value, datetime) else "text"
            text = cell(value).plain
            least = len(text) if kind == "number" else min(len(text), _NARROWEST[kind])
            longest_word = max(longest_word, least)
        widths.append(longest_word)
    return sum(widths) + 3 * len(widths)  # and what stands between them


def fields(console: Console, pairs: Iterable[tuple[str, object]]) -> None:
    """Print one record, a name and a value a line, leaving out missing values."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", []):
            shown.add_row(name, _shown(console, value))
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


def _shown(console: Console, value: object) -> Text:
    """Return a value in the terminal's characters, before it is laid out: an escape is wider than its character."""
    text = cell(value)
    plain = in_encoding(text.plain, console.encoding)
    return text if plain == text.plain else Text(plain, style=text.style)


def prompt_of(edit: "EditView") -> str | Text:
    """Return the prompt as it was submitted, unless its content was erased since."""
    return edit.prompt if edit.erased_at is None else Text("erased", style="dim")


def asked_of(edit: "EditView") -> str | Text:
    """Return the prompt with all its rephrases and guards, as a reviewer has to read them."""
    if edit.erased_at is not None:
        return prompt_of(edit)
    others = (*(f"or: {rephrase}" for rephrase in edit.rephrases), *(f"not: {guard}" for guard in edit.unchanged))
    return "\n".join([edit.prompt, *others])


def answer_of(edit: "EditView") -> str:
    """Return the target with the alternatives that count as right too."""
    return "\n".join([edit.target, *(f"or: {alternative}" for alternative in edit.alternatives)])


def visible(text: str) -> str:
    """Escape control and direction characters: a stored prompt must not control the reader's terminal."""
    return _each_unseen(text, _escape)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _each_unseen(text: str, escape: Callable[[str], str]) -> str:
    """Replace every character that acts on a terminal, except the ends of lines and tabs, or is drawn as nothing."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(escape(each) if _is_unseen(each) else each for each in text)


def _is_unseen(character: str) -> bool:
    return character not in "\n\t" and (unicodedata.category(character) in _UNSEEN or is_blank(character))


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


def edits_in_words(count: int) -> str:
    return "1 edit" if count == 1 else f"{count:,} edits"
