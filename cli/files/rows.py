"""Rows of a file before anything is made of them, and what is found wrong or worth saying while they are read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_PROBLEMS = 1_000  # listed; the others are counted
SHOWN_LINES = 10  # in a note


@dataclass(frozen=True)
class Row:
    """A record of the file: what stands under each column's or field's own name."""

    line: int  # of a text; else the number of the row or of the item
    fields: dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of a file, and what kind of file it is."""

    kind: str  # such as "CSV with semicolons"
    rows: Sequence[Row]
    columns: Sequence[str]  # of a table; of objects, those that occur
    is_table: bool  # its cells are texts, in which numbers and lists were written out
    unit: str = "line"  # what `line` counts


@dataclass
class Remarks:
    """Problems, by their lines, and notes on what was cleaned or ignored; equal notes are told once."""

    problems: list[dict[str, Any]] = field(default_factory=list)  # the first ones
    problem_count: int = 0
    _notes: dict[str, list[int]] = field(default_factory=dict)

    def refuse(self, line: int, detail: str, remedy: str, column: str | None = None) -> None:
        self.problem_count += 1
        if self.problem_count <= MOST_PROBLEMS:
            problem = {"line": line, "code": "broken-line", "detail": detail, "remedy": remedy}
            self.problems.append(problem | ({"field": column} if column else {}))

    def note(self, text: str, line: int | None = None) -> None:
        """Note something, at one line or of the whole file."""
        lines = self._notes.setdefault(text, [])
        if line is not None and line not in lines[-1:]:
            lines.append(line)

    def notes(self, unit: str) -> list[str]:
        """Return the notes in words. unit: what a line is called in this kind of file."""
        return [text + (_at(lines, unit) if lines else "") for text, lines in self._notes.items()]


def _at(lines: Sequence[int], unit: str) -> str:
    shown = ", ".join(map(str, lines[:SHOWN_LINES])) + (", …" if len(lines) > SHOWN_LINES else "")
    return f" ({unit if len(lines) == 1 else unit + 's'} {shown})"
