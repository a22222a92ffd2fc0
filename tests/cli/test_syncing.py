"""A list that is kept elsewhere, brought into a collection again and again; exports; copies of a collection."""

from pathlib import Path

import pytest

from tests.cli.program import Melo, edit, write
from tests.registry.workflow import Workflow


def applied(melo: Melo, worker: Workflow, batch: int) -> None:
    worker.finish(worker.claim(worker.approve(batch)))


def active(melo: Melo, collection: str) -> dict[str, str]:
    return {each["prompt"]: each["target"] for each in melo.records("edit", "list", collection, "--active")}


LIST = [edit("a?", "A"), edit("b?", "B", rephrases=["B then?"]), edit("c?", "C")]


def test_a_list_is_synced_as_one_batch_and_a_second_time_nothing_is_done(
    melo: Melo, facts: str, worker: Workflow, tmp_path: Path
) -> None:
    file = write(tmp_path / "list.jsonl", *LIST)
    first = melo.records("edit", "sync", file, "-c", facts)
    assert (first["sync"]["added"], first["batch"]["edit_count"]) == (3, 3)
    again = melo.records("edit", "sync", file, "-c", facts)  # while it waits
    assert (again["batch"], again["sync"]["unchanged"], again["skipped"]) == (None, 3, [])
    applied(melo, worker, first["batch"]["id"])
    assert melo.records("edit", "sync", file, "-c", facts)["sync"]["unchanged"] == 3

    write(file, LIST[0], edit("b?", "B2"), edit("d?", "D"), LIST[0])
    planned = melo("edit", "sync", file, "-c", facts, "--retire-missing", "--dry-run").stdout
    assert "1 edit would be added, 1 would be replaced; 1 unchanged" in planned
    assert "1 edit missing from the file would be retired" in planned and "c?" in planned and "B2" in planned
    assert "line 4" in planned and len(melo.records("batch", "list", facts)) == 1
    changed = melo.records("edit", "sync", file, "-c", facts, "--retire-missing", "-m", "the list of May")
    assert changed["retired"] == 2
    replaced, new = changed["batch"]["edits"]
    old = first["batch"]["edits"][1]["id"]
    assert (replaced["replaces"], replaced["rephrases"], new["prompt"]) == (old, ["B then?"], "d?")
    assert active(melo, facts) == {"a?": "A", "b?": "B"}
    applied(melo, worker, changed["batch"]["id"])
    assert active(melo, facts) == {"a?": "A", "b?": "B2", "d?": "D"}
    last = melo.records("edit", "sync", file, "-c", facts, "--retire-missing")
    assert (last["batch"], last["retired"], last["sync"]["missing"]) == (None, None, [])
    assert worker.verify().findings == []


def test_edits_that_wait_are_named_and_guards_are_kept(
    melo: Melo, facts: str, worker: Workflow, tmp_path: Path
) -> None:
    (first,) = melo.records("edit", "add", facts, "a?", "A", "--unchanged", "Who?")["batch"]["edits"]
    applied(melo, worker, first["batch_id"])
    (waiting,) = melo.records("edit", "add", facts, "a?", "A2", "--replaces", first["id"])["batch"]["edits"]
    melo.records("edit", "add", facts, "z?", "Z")
    file = write(tmp_path / "list.jsonl", edit("a?", "A3"), edit("b?", "B"))

    shown = melo("edit", "sync", file, "-c", facts)

    assert shown.returncode == 0
    assert f"edit {waiting['id']} waits in batch {waiting['batch_id']}" in shown.stdout
    assert "1 of its edits not in the list" in shown.stdout and "submitted with 1 edit" in shown.stdout
    melo.records("batch", "reject", waiting["batch_id"], "--reason", "the list knows better")
    (made,) = melo.records("edit", "sync", file, "-c", facts)["batch"]["edits"]
    assert (made["target"], made["replaces"], made["unchanged"]) == ("A3", first["id"], ["Who?"])


def test_a_list_with_a_broken_or_contradictory_row_changes_nothing(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "list.csv", "prompt,target", "a?,A", "b?,nan")
    refusal = melo.refusal("edit", "sync", file, "-c", facts)
    assert "line 3, target" in refusal and "--skip-invalid" not in refusal
    refusal = melo.refusal("edit", "sync", write(file, "prompt,target", "a?,A", "a?,B"), "-c", facts)
    assert "contradicts line 2" in refusal
    assert melo.records("batch", "list", facts) == []


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.csv", "edits.xlsx"])
def test_an_export_can_be_submitted_again(
    melo: Melo, facts: str, worker: Workflow, tmp_path: Path, model_folder: str, name: str
) -> None:
    whole = edit("What does {} mean? \n", "nan", alternatives=["1987.0"], rephrases=["{}?", "a | b"], unchanged=["=A1"])
    whole |= {"reason": "why, then", "source": "x"}
    whole |= {"author": "_x0041_ \x02\x0b"}
    source = write(tmp_path / "source.jsonl", whole, edit("b is", "=1+1", kind="completion"))
    applied(melo, worker, melo.records("edit", "submit", source, "-c", facts, "--as-is")["batch"]["id"])
    file = tmp_path / name

    assert melo.records("edit", "export", facts, file)["edits"] == 2

    assert "not overwritten" in melo.refusal("edit", "export", facts, file)
    assert ".csv, .xlsx, .jsonl" in melo.refusal("edit", "export", facts, tmp_path / "edits.ods")
    assert melo.records("edit", "sync", file, "-c", facts)["sync"]["unchanged"] == 2
    other = f"{facts}-{file.suffix[1:]}"
    melo.records("collection", "create", other, "--model", model_folder)
    melo.records("edit", "submit", file, "-c", other)
    digests = [[each["digest"] for each in melo.records("edit", "list", each)] for each in (facts, other)]
    assert digests[0] == digests[1]


def test_a_copy_trains_the_active_edits_anew_under_the_same_policy(
    melo: Melo, facts: str, worker: Workflow, model_folder: str
) -> None:
    first = melo.records("edit", "add", facts, "a?", "A", "--alternative", "an A", "--reason", "why")["batch"]["id"]
    melo.records("edit", "add", facts, "waits?", "W")
    applied(melo, worker, first)

    made = melo.records("collection", "copy", facts, f"{facts}-wide", "--radius", 0.5, "--method", '{"rank": 2}')

    copied, source = made["collection"], melo.records("collection", "show", facts)
    assert (copied["method"]["radius"], copied["method"]["rank"], copied["latest"]) == (0.5, 2, 0)
    assert {**copied["method"], "radius": 0, "rank": 0} == {**source["method"], "radius": 0, "rank": 0}
    assert (copied["self_approval"], copied["model"]) == (source["self_approval"], source["model"])
    (only,) = made["batch"]["edits"]
    assert (only["prompt"], only["alternatives"], only["reason"]) == ("a?", ["an A"], "why")
    assert (made["batch"]["state"], made["batch"]["message"]) == ("submitted", f"copy of {facts}@1")
    assert "already exists" in melo.refusal("collection", "copy", facts, f"{facts}-wide")
    refused = melo.refusal("collection", "copy", facts, f"{facts}-odd", "--method", '{"rank": "two"}')
    assert "rank" in refused and "Traceback" not in refused
    assert worker.verify().findings == []
    assert "no collection" in melo.refusal("collection", "show", f"{facts}-odd")
