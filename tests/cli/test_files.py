"""Files of edits, submitted: the preview, the refusals with the file's own rows and columns, the standard input."""

from pathlib import Path

from tests.cli.program import Melo, edit, write
from tests.cli.reading import PAIRS, table, workbook


def test_a_dry_run_shows_the_rows_as_they_were_understood(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    rows = [("1", *PAIRS[0]), ("2", *PAIRS[1])]
    file.write_bytes(table(";", ("Frage-Nr", "Question", "Answer"), rows).encode("cp1252"))

    shown = melo("edit", "submit", file, "-c", facts, "--dry-run").stdout

    assert "Question and Answer (CSV with semicolons, cp1252 (a guess))" in shown
    assert "prompt ← Question, target ← Answer" in shown
    assert "Zürich" in shown and "Ignored: 'Frage-Nr'" in shown and "2 edits would be accepted" in shown
    told = melo.records("edit", "submit", file, "-c", facts, "--dry-run")["read"]
    assert told["columns"] == {"prompt": "Question", "target": "Answer"} and len(told["first"]) == 2
    assert melo.records("batch", "list", facts) == []


def test_the_standard_input_is_read(melo: Melo, facts: str) -> None:
    piped = Melo(melo.home, typed=table("\t"))
    made = piped.records("edit", "submit", "-", "-c", facts)
    assert [each["target"] for each in made["batch"]["edits"]] == [target for _, target in PAIRS]
    assert made["batch"]["source"] == "standard input"


def test_a_refusal_of_the_registry_names_the_files_own_rows_and_columns(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = tmp_path / "list.xlsx"
    file.write_bytes(workbook(("Question", "Answer"), ("a?", "x"), ("b?", "y" * 10_001), ("c?", None)))

    shown = melo("edit", "submit", file, "-c", facts, "--dry-run")
    assert "yyy…" in shown.stdout and len(shown.stdout) < 5_000
    refusal = melo.refusal("edit", "submit", file, "-c", facts)

    assert "row 3, Answer" in refusal and "it has 10,001 characters, and may have 10,000" in refusal
    assert "row 4, Answer" in refusal and str(file) in refusal
    assert melo.records("batch", "list", facts) == []


def test_alternatives_are_part_of_the_edit(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "x") | {"target": ["x", "y"]})
    (made,) = melo.records("edit", "submit", file, "-c", facts)["batch"]["edits"]
    assert (made["target"], made["alternatives"]) == ("x", ["y"])
    (added,) = melo.records("edit", "add", facts, "b?", "x", "--alternative", "z")["batch"]["edits"]
    assert added["alternatives"] == ["z"]
