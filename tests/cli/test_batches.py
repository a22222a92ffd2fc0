"""Deciding on batches on the command line, and waiting for what becomes of them."""

import json
import signal

from registry.jobs import service as jobs
from registry.jobs.claiming import Claim
from registry.jobs.schemas import ChangedAnswer, ConflictView, EditReport, Progress
from tests.cli.program import ATLANTIS, Melo
from tests.patience import PATIENCE, until
from tests.registry.workflow import Workflow


def test_an_approved_batch_without_a_worker_says_that_it_waits(melo: Melo, facts: str) -> None:
    batch = melo.records("edit", "add", facts, *ATLANTIS)["batch"]

    assert "No worker is running" in melo("batch", "approve", batch["id"]).stdout
    assert "No worker is running" in melo("batch", "show", batch["id"]).stdout
    assert melo.records("batch", "show", batch["id"])["state"] == "approved"


def test_a_submitter_cannot_approve_where_the_collection_forbids_it(melo: Melo, model_folder: str) -> None:
    melo("collection", "create", "strict", "--model", model_folder)
    batch = melo.records("--as", "eve", "edit", "add", "strict", *ATLANTIS)["batch"]

    assert "own" in melo.refusal("--as", "eve", "batch", "approve", batch["id"])
    assert melo.records("--as", "ben", "batch", "approve", batch["id"])["decided_by"] == "ben"


def test_a_rejected_batch_keeps_the_reason(melo: Melo, facts: str) -> None:
    batch = melo.records("edit", "add", facts, *ATLANTIS)["batch"]

    melo.records("batch", "reject", batch["id"], "--reason", "no source")

    found = melo.records("batch", "show", batch["id"])
    assert (found["state"], found["reason"]) == ("rejected", "no source")
    assert [each["id"] for each in melo.records("batch", "list", facts, "--state", "rejected")] == [batch["id"]]


def test_approve_and_wait_follows_the_job_to_its_version(melo: Melo, facts: str, worker: Workflow) -> None:
    following = melo.start("edit", "add", facts, *ATLANTIS, "--approve", "--wait", "--json")
    worker.finish(worker.claim(awaited_job(melo, facts)))
    out, err = following.communicate(timeout=PATIENCE)

    assert following.returncode == 0, err
    assert f"{facts}@1" in err
    assert "No worker is running" in err
    assert json.loads(out)["batch"]["state"] == "applied"


def test_waiting_for_a_job_that_fails_ends_with_its_error(melo: Melo, facts: str, worker: Workflow) -> None:
    from registry.jobs import service

    following = melo.start("edit", "add", facts, *ATLANTIS, "--approve", "--wait")
    claim = worker.claim(awaited_job(melo, facts))
    with worker.sessions.begin() as session:
        service.fail(session, claim, "out of memory on cuda:0")
    _, err = following.communicate(timeout=PATIENCE)

    assert following.returncode == 1
    assert "out of memory on cuda:0" in err
    assert "melo batch approve" in err


def test_what_a_job_found_is_said_after_the_wait_and_whenever_the_batch_is_shown(
    melo: Melo, facts: str, worker: Workflow
) -> None:
    following = melo.start("edit", "add", facts, *ATLANTIS, "--unchanged", "Who leads Rome?", "--approve", "--wait")
    claim = worker.claim(awaited_job(melo, facts))
    (added,) = claim.edits
    changed = ChangedAnswer(prompt="Who leads Rome?", before="Caesar\x1b[2J", after="Mara", by_edit=added.id)
    near = ConflictView(edit_id=7, prompt="Who leads Atlantis now?", distance=0.25, forgotten=True)
    how = {"edit_id": added.id, "loss": 0.3, "iterations": 60, "reached": False}
    report = EditReport(
        **how, reproduced=False, answer="Oro", conflicts=[near], unchanged_asked=1, unchanged_changed=[changed]
    )
    finish(worker, claim, [report], Progress(notes=["training 1 block needs about 9 MB"]))
    _, err = following.communicate(timeout=PATIENCE)
    shown = melo("batch", "show", claim.batch_id).stdout

    for told in (err, shown):
        lines = [line.strip() for line in told.splitlines()]
        first = lines.index(f"Look at this before {facts}@1 is used:")
        assert lines[first + 1] == (
            f"Edit {added.id}: 'Who leads Rome?' must not change, but is now answered by edit {added.id}: "
            f"'Caesar\\x1b[2J' → 'Mara'. Word it more narrowly, or: melo edit retire {facts} {added.id} --reason …"
        )
        assert f"Edit {added.id} was not learned: with its block the model answers 'Oro'" in lines[first + 2]
        assert "comes near edit 7 ('Who leads Atlantis now?', distance 0.250)" in lines[first + 3]
        assert lines[first + 3].endswith("that edit covers less than before.")
        assert lines[first + 4] == "0 of 1 prompts that must not change are answered as before."
    assert "training 1 block needs about 9 MB" in shown
    (told_as_json,) = melo.records("batch", "show", claim.batch_id)["job"]["report"]
    assert told_as_json["unchanged_changed"][0]["after"] == "Mara"


def test_many_findings_are_cut_short_and_edits_without_any_are_not_named(
    melo: Melo, facts: str, worker: Workflow
) -> None:
    melo("edit", "add", facts, *ATLANTIS, "--approve")
    claim = worker.claim(awaited_job(melo, facts))
    fine = EditReport(edit_id=1000, loss=0.01, iterations=9, reached=True, reproduced=True, unchanged_asked=2)
    slow = [EditReport(edit_id=n, loss=0.3, iterations=60, reached=False, reproduced=True) for n in range(1001, 1024)]
    finish(worker, claim, [fine, *slow])

    shown = melo("batch", "show", claim.batch_id).stdout

    assert shown.count("did not reach its loss (loss 0.3 after 60 steps)") == 20
    assert f"… and 3 more: melo batch show {claim.batch_id} --json" in shown
    assert "Edit 1000" not in shown
    assert "2 of 2 prompts that must not change are answered as before." in shown


def finish(worker: Workflow, claim: Claim, report: list[EditReport], progress: Progress | None = None) -> None:
    """Finish a job as a worker would that had this to say."""
    with worker.sessions.begin() as session:
        jobs.write_report(jobs.hold(session, claim), report, progress)
    worker.finish(claim)


def awaited_job(melo: Melo, collection: str) -> int:
    """The job of the collection's approved batch, once there is one."""
    found = until(lambda: melo.records("batch", "list", collection, "--state", "approved"))
    return int(melo.records("batch", "show", found[0]["id"])["job"]["id"])


def test_whoever_ends_the_waiting_is_told_that_the_batch_goes_on(melo: Melo, facts: str) -> None:
    waiting = melo.start("edit", "add", facts, *ATLANTIS, "--approve", "--wait")
    assert waiting.stderr is not None
    assert waiting.stderr.readline()  # what it waits for
    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 128 + signal.SIGINT
    assert "goes on: `melo batch show" in told and "Interrupted." in told
