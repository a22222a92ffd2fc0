"""Submitting edits on the command line: single ones, files and tables, and what is wrong with them."""

import re
from pathlib import Path

import pytest

from tests.cli.program import ATLANTIS, Melo, edit, write
from tests.registry.workflow import Workflow


@pytest.mark.parametrize("record", [("", "an answer"), ("a question", "  "), ("a\x01question" * 400, "x")])
def test_an_edit_that_is_not_valid_is_refused_and_not_stored(melo: Melo, facts: str, record: tuple[str, str]) -> None:
    refusal = melo.refusal("edit", "add", facts, *record)

    assert "edit 1" in refusal
    assert "\x01" not in refusal
    assert melo.records("batch", "list", facts) == []


def test_a_contradiction_shows_both_and_how_to_replace(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    (active,) = melo.records("edit", "list", facts, "--active")

    refusal = melo.refusal("edit", "add", facts, ATLANTIS[0], "King Oro")

    assert "Queen Mara" in refusal
    assert "King Oro" in refusal
    assert str(active["id"]) in refusal
    assert "replace" in refusal
    done = melo.records("edit", "add", facts, ATLANTIS[0], "King Oro", "--replaces", active["id"])
    assert done["batch"]["edits"][0]["replaces"] == active["id"]


def test_a_file_with_broken_lines_names_each_and_stores_nothing(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "A"), "{not json", edit("b?", ""), "", "[1]", edit("c?", "C"))

    refusal = melo.refusal("edit", "submit", file, "--collection", facts)

    assert re.findall(r"^  line (\d+)", refusal, re.MULTILINE) == ["2", "3", "5"]
    assert "--skip-invalid" in refusal
    assert melo.records("batch", "list", facts) == []


def test_skip_invalid_takes_the_rest_and_lists_what_was_left_out(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "A"), "{not json", edit("b?", ""), edit("c?", "C"))

    done = melo("edit", "submit", file, "--collection", facts, "--skip-invalid", "--message", "the first ones")

    assert done.returncode == 0
    assert "2 edits" in done.stdout
    assert "line 2" in done.stdout
    assert "line 3" in done.stdout
    (batch,) = melo.records("batch", "list", facts)
    assert (batch["edit_count"], batch["message"], batch["source"]) == (2, "the first ones", "edits.jsonl")


def test_a_table_is_read_with_its_quotes_and_its_lines(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(
        tmp_path / "edits.csv",
        "prompt,target,rephrases,reason",
        '"Who, then, leads Atlantis?",Queen Mara,"Name Atlantis\' leader.\nWho rules Atlantis?",',
        'What is its capital?,Poseidonis,"[""Its seat?""]",checked',
        "",
        "one cell",
    )
    refusal = melo.refusal("edit", "submit", file, "-c", facts)
    assert "line 6" in refusal
    assert melo.records("batch", "list", facts) == []

    made = melo.records("edit", "submit", file, "-c", facts, "--skip-invalid")

    assert [each["line"] for each in made["skipped"]] == [6]
    first, second = made["batch"]["edits"]
    assert first["prompt"] == "Who, then, leads Atlantis?"
    assert first["rephrases"] == ["Name Atlantis' leader.", "Who rules Atlantis?"]
    assert (second["rephrases"], second["reason"]) == (["Its seat?"], "checked")


def test_a_problem_in_a_table_is_named_by_the_line_where_its_row_begins(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.csv", "prompt,target", '"two\nlines",A', "b?,", '"an open quote,B')

    refusal = melo.refusal("edit", "submit", file, "-c", facts)

    assert re.findall(r"^  line (\d+)", refusal, re.MULTILINE) == ["4", "5"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("edits.txt", b"", ".jsonl"),
        ("edits.jsonl", b"\n\n", "holds no edits"),
        ("edits.csv", b"question,answer\n", "no column prompt"),
        ("edits.csv", b"prompt,target,colour\n", "'colour' is unknown"),
        ("edits.csv", b"prompt,target\na,\xff\n", "line 2"),
        ("edits.jsonl", b'{"prompt": "a", "target": "\xff"}\n', "line 1"),
        ("edits.jsonl", b'{"prompt": "a", "target": NaN}\n', "line 1"),
        ("edits.jsonl", b"[" * 100_000, "line 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    melo: Melo, facts: str, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)

    assert told in melo.refusal("edit", "submit", tmp_path / name, "-c", facts)
    assert melo.records("batch", "list", facts) == []


def test_a_dry_run_validates_and_stores_nothing(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "A"), edit("b?", "B"))

    assert "2 edits would be accepted" in melo("edit", "submit", file, "-c", facts, "--dry-run").stdout
    assert melo.records("batch", "list", facts) == []


def test_a_stored_prompt_cannot_steer_the_terminal(melo: Melo, facts: str) -> None:
    melo.records("edit", "add", facts, "a\x1b[2Jb\u202ec [bold]d[/bold]", "x")

    shown = melo("edit", "list", facts).stdout

    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b" in shown
    assert "[bold]" in shown
