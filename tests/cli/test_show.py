"""Tables on screens of any width, and terminals without Unicode."""

import fcntl
import io
import json
import os
import struct
import termios
from datetime import datetime

import pytest

from cli.invocation import console
from cli.show import Screen, escaped, fields, in_encoding, table, visible

COLUMNS = ["version#", "kind", "edits#", "aliases", "author", "made", "why", "content digest"]
ROWS = [
    [
        1,
        "apply",
        20,
        "production, canary",
        "ada",
        datetime(2026, 11, 17, 14, 5),
        "the board of Acme",
        "abcdef123456",
    ],
    [12, "rollback to 1", 20, "", "ben", datetime(2026, 11, 17, 14, 6), None, "abcdef123456"],
]


def printed(width: int, show, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    show(Screen(file=file, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True))
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("width", [30, 45, 80, 120, 160])
def test_no_word_of_a_table_is_broken_and_no_line_is_wider_than_the_screen(width):
    lines = printed(width, lambda console: table(console, COLUMNS, ROWS, "none"))
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for row in ROWS:
        for value in row:
            if value is not None and not isinstance(value, datetime):
                assert all(word in words for word in str(value).split())
    assert {"2026-11-17", "14:05:00", "version", "edits"} <= set(words)


def test_a_narrow_screen_shows_a_record_for_each_row():
    lines = [line.rstrip() for line in printed(45, lambda console: table(console, COLUMNS, ROWS, "none"))]
    assert lines[:2] == ["version         1", "kind            apply"]
    assert lines[lines.index("") + 1 :][:2] == ["version         12", "kind            rollback to 1"]
    assert printed(45, lambda console: table(console, COLUMNS, [], "None yet.")) == ["None yet."]


def test_a_table_that_fits_stays_one():
    (_, head, line, *_) = printed(45, lambda console: table(console, ["a#", "name"], [[1, "x " * 60]], ""))
    assert head.split() == ["a", "name"] and set(line.strip()) == {"─"}


def test_texts_are_put_into_the_characters_that_a_terminal_has():
    text = "“née” – Ἀθ… → ▁█ 😀"
    assert in_encoding(text, "utf-8") == text
    assert in_encoding(text, "ascii") == '"n\\xe9e" - \\u1f08\\u03b8... -> 18 \\U0001f600'
    assert in_encoding("née", "latin-1") == "née"
    lines = printed(60, lambda console: table(console, ["a", "b"], [[text, "ü"]], ""), "ascii")
    assert any("\\U0001f600" in line and "\\xfc" in line for line in lines)  # whole, not cut where the text ended
    lines = printed(60, lambda console: fields(console, [("näme", text)]), "ascii")
    assert "\\U0001f600" in lines[0]


def test_a_dumb_terminals_own_width_is_kept_to(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("COLUMNS", raising=False)
    held, screen = os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 40, 0, 0))
    with os.fdopen(screen, "w") as stream:
        assert console(stream).width == 40
    os.close(held)


@pytest.mark.parametrize("blank", ["\u3164", "\u2800", "\u034f", "\u2065", "\u200a", "\ufffc", "\ue000", "\ufffe"])
def test_what_is_drawn_as_nothing_is_shown_by_its_number(blank):
    told = f"\\u{ord(blank):04x}"
    assert visible(f"1{blank}12") == f"1{told}12"
    assert escaped(json.dumps([f"1{blank}12"], ensure_ascii=False)) == f'["1{told}12"]'
    line = "".join(printed(80, lambda out: fields(out, [("target", f"1{blank}12")])))
    assert told in line and blank not in line
    for ordinary in ("Zoë’s café — 日本 ❤️ \u00a0 Łódź", "tab\tand\nline"):
        assert visible(ordinary) == ordinary
