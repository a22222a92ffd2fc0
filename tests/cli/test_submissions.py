"""Submitting edits on the command line: single ones, files and tables, and what is wrong with them."""

import re
import unicodedata
from io import StringIO
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.text import Text

from cli.show import Screen
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
        ("edits.txt", b"", "holds no edits"),
        ("edits.jsonl", b"\n\n", "holds no edits"),
        ("edits.csv", b"colour,shape\nred,round\n", "'colour', 'shape'"),
        ("edits.csv", "prompt,target\nWo?,Zürich\na,".encode() + b"\xff\n", "line 3"),
        ("edits.jsonl", '{"prompt": "ü", "target": "'.encode() + b'\xff"}\n', "line 1"),
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


HOSTILE = "a\x1b[2Jb\u202ec\x9b3J\x7f\u2066d\u200be\u2028\U000e0041 [bold]f[/bold]"


def test_a_stored_text_cannot_steer_the_terminal(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit(HOSTILE, HOSTILE, rephrases=[f"{HOSTILE}?"], source=HOSTILE))
    done = melo("edit", "submit", file, "-c", facts, "--as-is", "--message", HOSTILE)
    (batch,) = melo.records("batch", "list", facts)
    said = [
        done,
        melo("edit", "submit", file, "-c", facts, "--as-is"),
    ]  # it repeats what waits: refused, with both texts
    for command in (
        ["edit", "list", facts],
        ["batch", "list", facts],
        ["batch", "show", batch["id"]],
        ["audit", "log"],
    ):
        said += [melo(*command), melo(*command, "--json")]
    said.append(melo("batch", "reject", batch["id"], "--reason", HOSTILE, "--json"))

    shown = "".join(each.stdout + each.stderr for each in said)
    assert [each for each in shown if each != "\n" and unicodedata.category(each)[0] == "C"] == []
    assert "\u2028" not in shown
    assert "a\\u001b[2Jb\\u202ec" in shown and "\\u007f" in shown and "[bold]" in shown
    assert melo.records("edit", "list", facts)[0]["target"] == HOSTILE


def test_what_streams_and_turns_on_the_terminal_is_escaped_too() -> None:
    out = StringIO()
    screen = Screen(file=out, force_terminal=True, width=200)
    screen.print(Text(HOSTILE), HOSTILE, end="")
    with Progress("{task.description}", console=screen) as bars:
        bars.add_task(HOSTILE)
    with screen.status(HOSTILE):
        pass
    plain = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", out.getvalue())  # what rich itself sends
    assert "\x1b[2J" not in out.getvalue() and plain.count("a\\u001b") >= 4
    assert {each for each in plain if each.isascii() and not each.isprintable()} <= {"\n", "\r"}
    assert not {"\x9b", "\u202e", "\u2066", "\u2028"} & set(plain)


def test_no_command_writes_past_the_screen() -> None:
    root = Path(__file__).parents[2]
    allowed = {"cli/show.py", "cli/invocation.py", "cli/main.py", "cli/audit.py"}
    past = re.compile(r"sys\.stdout\.(?:write|buffer)|(?<![\w.])print\(|(?<!\w)Console\(|typer\.echo|, sys\.stdout")
    found = {
        str(path.relative_to(root))
        for folder in ("cli", "serving", "worker", "embedded")
        for path in (root / folder).rglob("*.py")
        if past.search(path.read_text("utf-8"))
    }
    assert found - allowed == {"worker/devices.py", "worker/export/answer.py"}  # a program of one line; one exported
