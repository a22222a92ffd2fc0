"""The queue on the command line: options of a submission, stopping, holding, training again, and looking at jobs."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.jobs import drawn
from cli.main import make_app
from registry.base.vocabulary import QueueState
from registry.client import MeloClientError
from registry.jobs import service as queue
from registry.jobs.schemas import Progress
from tests.operators_key import KEY
from tests.patience import until
from tests.registry.workflow import ADA

ATLANTIS = ("Who leads Atlantis?", "Queen Mara")


@pytest.fixture
def melo(served, workflow, monkeypatch):
    """Call the program as ben; what it printed, on both streams."""
    monkeypatch.setenv("MELO_API_URL", served)
    monkeypatch.setenv("MELO_API_KEY", KEY)
    monkeypatch.setenv("MELO_ACTOR", "ben")
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments, stream="output"):
        done = CliRunner().invoke(make_app(), list(map(str, arguments)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return getattr(done, stream)

    with capture_logs():  # the API's lines would stand among what the program prints
        yield call


def records(melo, *arguments):
    return json.loads(melo(*arguments, "--json", stream="stdout"))


def waiting(workflow, prompt=ATLANTIS[0]):
    """A batch whose training waits; its id and its job's."""
    batch = workflow.submit({"prompt": prompt, "target": ATLANTIS[1]}).batch.id
    return batch, workflow.approve(batch)


def test_priority_deadline_and_settings_are_given_with_a_submission_and_shown(melo, tmp_path):
    file = tmp_path / "edits.jsonl"
    file.write_text(json.dumps({"prompt": "Who?", "target": "Jo"}))
    urgent = ("--priority", "high", "--deadline", "90m", "--training", '{"iterations": 200}')
    melo("edit", "add", "facts", *ATLANTIS, *urgent)
    melo("edit", "submit", file, "-c", "facts", "--priority", "low", "--edits-per-block", "4")

    found = records(melo, "batch", "show", 1)

    assert (found["priority"], found["training"]) == ("high", {"iterations": 200})
    away = datetime.fromisoformat(found["deadline"]) - datetime.now(UTC)
    assert timedelta(minutes=85) < away <= timedelta(minutes=90)
    assert "iterations=200" in melo("batch", "show", 1)
    assert [(each["priority"], each["training"]) for each in records(melo, "batch", "list", "facts")] == [
        ("low", {"edits_per_block": 4}),
        ("high", {"iterations": 200}),
    ]
    with pytest.raises(MeloClientError, match="radius is the same for all edits"):
        melo("edit", "add", "facts", "Who leads Oslo?", "Nils", "--training", '{"radius": 2}')


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--deadline", "soon", "soon"),
        ("--deadline", "", "Not a time"),
        ("--deadline", "999999w", "999999w"),
        ("--training", '{"learning_rate": NaN}', "NaN is not a finite number"),
        ("--training", '{"learning_rate": 1e999}', "1e999 is not a finite number"),
    ],
)
def test_times_and_numbers_that_cannot_be_are_refused_before_anything_is_sent(melo, option, value, told):
    with pytest.raises(CommandError, match=told):
        melo("edit", "add", "facts", *ATLANTIS, option, value)
    assert records(melo, "batch", "list", "facts") == []


def test_a_keys_end_that_cannot_be_and_a_method_that_cannot_be_are_refused(melo):
    for end in ("999999w", ""):
        with pytest.raises(CommandError, match="Not a time"):
            melo("key", "create", "bot", "--role", "editor", "--expires", end)
    with pytest.raises(CommandError, match="-Infinity is not a finite number"):
        melo("collection", "create", "other", "--model", "x", "--method", '{"scale": -Infinity}')


def test_a_cancelled_batch_ends_the_wait_and_may_be_approved_again(melo, workflow):
    batch, job = waiting(workflow)
    workflow.claim(job)
    assert "cancelled" in melo("batch", "cancel", batch, "--reason", "the wrong file")
    with pytest.raises(CommandError, match="was cancelled: ben: the wrong file"):
        melo("batch", "show", batch, "--watch")
    shown = melo("batch", "show", batch)
    assert "by ben" in shown and "the wrong file" in shown
    assert records(melo, "batch", "approve", batch)["state"] == "approved"


def test_who_watches_a_batch_without_a_preflight_waits_for_its_decision_and_is_told_so_once(melo, workflow, served_app):
    batch = workflow.submit({"prompt": ATLANTIS[0], "target": ATLANTIS[1]}).batch.id

    def decide():
        until(lambda: served_app[0].state.streams.open["operator"])
        time.sleep(1.5)  # it is looked at several times, and told once
        workflow.finish(workflow.claim(workflow.approve(batch)))

    approver = threading.Thread(target=decide)
    approver.start()
    said = melo("batch", "show", batch, "--watch")
    approver.join()
    assert said.count("waits for the decision too") == 1
    assert f"Batch {batch} is applied" in said


def test_a_drained_queue_is_waited_for_until_nothing_runs_or_waits(melo, workflow):
    _, held = waiting(workflow)
    _, next_one = waiting(workflow, "Who leads Oslo?")
    claim = workflow.claim(held)
    with workflow.sessions.begin() as session:
        queue.worker_seen(session, "w1", "cpu")
        queue.heartbeat(session, claim, Progress(stage="train", done=3, total=8))
    shown = melo("collection", "queue", "facts")
    assert "train 3/8" in shown and "waits for batch 1" in " ".join(shown.split())

    def is_draining():
        with workflow.open() as (_, collection):
            return collection.queue == QueueState.DRAINING

    def work():
        until(is_draining)
        workflow.finish(claim)
        workflow.finish(workflow.claim(next_one))

    worker = threading.Thread(target=work)
    worker.start()
    said = melo("collection", "drain", "facts", "--reason", "before the migration", "--wait")
    assert workflow.newest() == 2
    worker.join()
    assert "Nothing of facts runs or waits any more" in said
    with pytest.raises(MeloClientError, match="melo collection resume facts"):
        melo("edit", "add", "facts", "Who leads Bern?", "Urs")
    melo("collection", "resume", "facts", "--reason", "done")
    assert records(melo, "collection", "pause", "facts", "--reason", "later", "--wait")["queue"] == "paused"
    assert "paused" in melo("collection", "list") and "paused" in melo("collection", "show", "facts")


def test_an_edit_is_trained_again_from_the_command_line(melo, workflow):
    workflow.correct(ATLANTIS)
    again = ("edit", "retrain", 1, "--training", '{"iterations": 200}', "--reason", "not learned")
    assert "edit 2 is to replace edit 1" in melo(*again)
    found = records(melo, "batch", "show", 2)
    assert (found["state"], found["training"], found["edits"][0]["replaces"]) == ("submitted", {"iterations": 200}, 1)


def test_a_wrong_answer_becomes_a_guard_on_the_command_line(melo, workflow):
    workflow.correct(ATLANTIS)
    assert "No guards" in melo("guard", "list", "facts")
    said = melo("guard", "add", 1, "Where is Atlantis?", "--reason", "it was answered")
    assert "edit 2, with 1 guards, is to replace edit 1" in said
    workflow.finish(workflow.claim(workflow.approve(2, ADA)))
    assert records(melo, "guard", "list", "facts") == [
        {"edit": 2, "prompt": ATLANTIS[0], "guards": ["Where is Atlantis?"]}
    ]


def test_jobs_are_listed_and_shown_with_all_that_is_kept_of_them(melo, workflow):
    workflow.correct(ATLANTIS)
    waiting(workflow, "Who leads Oslo?")
    assert [each["state"] for each in records(melo, "job", "list")] == ["queued", "succeeded"]
    assert [each["id"] for each in records(melo, "job", "list", "-c", "facts", "--state", "queued")] == [2]
    shown = melo("job", "show", 1)
    assert all(text in shown for text in ("torch=none", "train=0.5", "rank=4", "succeeded"))


def test_a_loss_curve_is_one_line_that_falls():
    line = drawn([[0.0, 8.0], [1.0, 0.08], [1.5, None], [2.0, 0.0008]], width=4)
    assert line == "loss 8 ██▄▁ 0.0008 after 2.0 s (logarithmic)"
    assert drawn([[0.0, None]]) == drawn([]) == "No loss was recorded."
    assert "▁▁" in drawn([[0.0, 1.0], [1.0, 1.0]], width=2)
