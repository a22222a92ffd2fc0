"""`melo bench queue`: its schedule follows from the seed, it finds what is wrong, and it says what it measured."""

import json
import subprocess
import sys

import pytest

from benchmarks.queue import invariants
from benchmarks.queue.command import queue
from benchmarks.queue.faults import Approval, Fault, schedule
from cli.errors import CommandError
from tests.patience import PATIENCE
from tests.registry.workflow import Workflow
from worker.fault_points import FaultPoint

SECOND_BLOCK = """(collection_id, job_id, data, sha256, shapes, rank, scale, loss, iterations)
SELECT collection_id, job_id, data, sha256, shapes, rank, scale, loss, iterations FROM blocks"""


def test_the_schedule_follows_from_the_seed_alone():
    assert list(schedule(7, 50)) == list(schedule(7, 50))
    assert list(schedule(7, 50)) == list(schedule(7, 80))[:50]
    assert list(schedule(7, 50)) != list(schedule(8, 50))


def test_every_point_and_every_fault_has_its_turn():
    rounds = list(schedule(0, len(FaultPoint)))
    assert {plan.orders[0][-1].at for plan in rounds} == set(FaultPoint)
    assert {step.what for plan in rounds for step in plan.steps} >= set(Fault)
    assert all(isinstance(plan.steps[0].what, Approval) for plan in rounds)


def test_nothing_is_found_in_a_record_in_which_everything_is_true(tiny_workflow: Workflow):
    version = tiny_workflow.correct(("Who runs Acme?", "Ada"), ("Where is Globex?", "Oslo"))
    assert invariants.of_batches(tiny_workflow.sessions, [version.batch_id]).all == []
    assert invariants.of_everything(tiny_workflow.sessions).all == []


@pytest.mark.parametrize(
    ("kind", "forgery"),
    [
        ("lost", "UPDATE jobs SET state = 'queued', finished_at = NULL; UPDATE batches SET state = 'approved'"),
        ("lost", "UPDATE jobs SET state = 'failed', error = ''; UPDATE batches SET state = 'failed'"),
        ("repeated", f"INSERT INTO blocks {SECOND_BLOCK}; INSERT INTO block_edits SELECT max(id), 2 FROM blocks"),
        ("repeated", "UPDATE batches SET state = 'failed'"),
        ("orphans", "UPDATE jobs SET state = 'failed', error = 'no'"),
        ("orphans", "DELETE FROM block_edits"),
        ("events", "DELETE FROM audit_events WHERE action = 'collection:version:apply'"),
        ("events", "UPDATE jobs SET attempt = 2"),
        ("others", "DELETE FROM activations"),
        ("others", "DELETE FROM clusters"),
        ("others", "UPDATE versions SET number = 3, content_version = 3 WHERE number = 2"),
    ],
)
def test_what_is_wrong_is_found(tiny_workflow: Workflow, tamper, kind, forgery):
    versions = [tiny_workflow.correct(("Who runs Acme?", "Ada")), tiny_workflow.correct(("Where is Globex?", "Oslo"))]
    tamper(*forgery.split("; "))
    found = invariants.of_batches(tiny_workflow.sessions, [version.batch_id for version in versions])
    found += invariants.of_everything(tiny_workflow.sessions)
    assert getattr(found, kind)


def test_batches_that_were_applied_out_of_their_turn_are_found(tiny_workflow: Workflow, tamper):
    versions = [tiny_workflow.correct(("Who runs Acme?", "Ada")), tiny_workflow.correct(("Where is Globex?", "Oslo"))]
    tamper(*(f"UPDATE versions SET batch_id = {new} WHERE batch_id = {old}" for old, new in ((1, 99), (2, 1), (99, 2))))
    found = invariants.of_batches(tiny_workflow.sessions, [version.batch_id for version in versions])
    assert found.others == ["batch 2 was applied before batch 1"]


@pytest.mark.long
def test_the_bench_prints_and_writes_what_it_measured(tmp_path):
    out = tmp_path / "queue.json"
    options = ["--rounds", "1", "--edits", "40", "--batches", "4", "--idle-seconds", "1", "--seed", "5"]
    program = [sys.executable, "-c", "from cli.main import main; main()", "bench", "queue", *options]
    done = subprocess.run([*program, "--json", str(out)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("seed 5\n")
    assert "throughput ratio" in done.stdout
    told = json.loads(out.read_text())
    names = ("lost", "repeated", "orphan_blocks", "missing_events", "other_findings")
    assert {name: told[name] for name in names} == dict.fromkeys(names, 0)
    assert told["jobs"] >= 4 + 2
    assert told["faults"] >= 1
    assert told["seed"] == 5
    assert told["throughput"]["batches_by_state"] == {"applied": 4}
    assert told["throughput"]["reproduced"]["queue"] > 0.5
    assert 0 < told["throughput_ratio"] < 3
    assert 0 <= told["idle_core_share"] < 0.5


def test_edits_that_do_not_fill_their_batches_are_refused_with_the_reason():
    with pytest.raises(CommandError, match="5 edits cannot fill 10 batches"):
        queue(None, rounds=0, edits=5, batches=10, idle_seconds=0, seed=0)
