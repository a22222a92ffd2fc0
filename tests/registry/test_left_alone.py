"""Near misses at the decision: what the terminal tells of them, guards made of them, and a share that a policy asks."""

import json
import shlex

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.main import make_app
from registry.base.errors import InvalidRequest, TooFewLeftAlone, WrongState
from registry.base.vocabulary import Preflight
from registry.batches import deciding
from registry.batches import service as edits
from registry.batches.training import Training
from registry.collections import policy
from registry.collections.schemas import NewCollection, PolicyChange
from registry.collections.service import create
from registry.erasure.scrubbing import GONE, Erasing, named_in, scrubbed
from registry.jobs import service as jobs
from registry.jobs.preflights import tried
from registry.jobs.schemas import EditPreflight, NearMiss
from registry.versions import candidates
from tests.operators_key import KEY
from tests.registry.workflow import ADA, BEN

PARIS = {
    "prompt": "What is the capital of France?",
    "target": "Paris",
    "unchanged": ["Where is Paris?"],
    "source": "atlas",
}
OSLO = {"prompt": "What is the capital of Norway?", "target": "Oslo"}
POEM, FLAG = "Write a poem about France.", "What is the flag of France?"


def change(workflow, **wanted):
    with workflow.open() as (session, collection):
        return policy.change(session, collection, PolicyChange(reason="near misses", **wanted), BEN)


def missed(by_edit, *texts, answer=None):
    return [NearMiss(kind="task", text=each, by_edit=by_edit, score=0.1, answer=answer) for each in texts]


def submitted(workflow, *records):
    """The batch's id, and its edits'."""
    batch = workflow.submit(*records).batch
    return batch.id, [edit.id for edit in view(workflow, batch.id).edits]


def finish_preflight(workflow, batch_id, misses):
    """Let the preflight end with these near misses, by edit."""
    claim = workflow.claim(view(workflow, batch_id).preflight.id)
    ids = set(misses)
    report = [EditPreflight(edit_id=id, answer_now="Lyon", near_misses=found) for id, found in misses.items()]
    report = [each.model_copy(update={"left_alone": tried([each], ids).share}) for each in report]
    with workflow.sessions.begin() as session:
        candidates.finish_preflight(session, claim, report, None, progress=None, timings={}, loss_curve=[])


def view(workflow, batch_id):
    with workflow.sessions() as session:
        return edits.view(session, edits.get(session, batch_id))


def approve(workflow, batch_id, *declined):
    with workflow.sessions.begin() as session:
        deciding.approve(session, batch_id, BEN, "checked", declined)
    return view(workflow, batch_id).state


def test_a_batch_that_leaves_fewer_near_misses_alone_than_the_policy_asks_is_not_approved(workflow):
    change(workflow, preflight=Preflight.KEYS, left_alone_needed=0.75)
    batch, (paris, oslo) = submitted(workflow, PARIS, OSLO)
    with pytest.raises(
        WrongState, match=r"the preflight of batch 1 is not done yet\. Wait for it: melo batch show 1 --watch"
    ):
        approve(workflow, batch)
    finish_preflight(
        workflow, batch, {paris: missed(paris, POEM, FLAG) + missed(None, "a?"), oslo: missed(None, "b?", "c?")}
    )
    with pytest.raises(
        TooFewLeftAlone, match=r"75\.0% of .* leave alone 60\.0%: 3 of 5.*melo batch review 1.*--except"
    ):
        approve(workflow, batch)
    assert view(workflow, batch).approvals == []
    assert approve(workflow, batch, paris) == "approved"
    assert workflow.verify().ok


def test_a_share_that_is_reached_exactly_and_a_batch_without_near_misses_are_approved(workflow):
    change(workflow, preflight=Preflight.KEYS, left_alone_needed=0.5)
    batch, (paris,) = submitted(workflow, PARIS)
    finish_preflight(workflow, batch, {paris: missed(paris, POEM) + missed(None, FLAG)})
    assert approve(workflow, batch) == "approved"
    other, (oslo,) = submitted(workflow, OSLO)
    finish_preflight(workflow, other, {oslo: []})
    assert approve(workflow, other) == "approved"


def test_what_an_edit_of_an_earlier_batch_answers_is_not_held_against_this_one(workflow):
    change(workflow, preflight=Preflight.KEYS, left_alone_needed=1)
    batch, (paris,) = submitted(workflow, PARIS)
    finish_preflight(workflow, batch, {paris: missed(99, POEM)})
    assert approve(workflow, batch) == "approved"


def test_a_batch_whose_preflight_failed_or_never_was_has_to_be_submitted_again(workflow):
    without, _ = submitted(workflow, OSLO)
    change(workflow, preflight=Preflight.KEYS, left_alone_needed=0.5)
    failed, _ = submitted(workflow, PARIS)
    with workflow.sessions.begin() as session:
        jobs.fail(session, workflow.claim(view(workflow, failed).preflight.id), "out of memory")
    for batch in (without, failed):
        with pytest.raises(WrongState, match=rf"has no report\. Reject it \(melo batch reject {batch} "):
            approve(workflow, batch)


def test_a_policy_asks_for_a_share_only_where_a_preflight_tells_it_and_drops_it_again(workflow, model_folder):
    with pytest.raises(InvalidRequest, match="without a preflight none is tried"):
        change(workflow, left_alone_needed=0.9)
    assert change(workflow, preflight=Preflight.KEYS, left_alone_needed=0.9).left_alone_needed == 0.9
    with pytest.raises(InvalidRequest, match="or for no share"):
        change(workflow, preflight=Preflight.NONE)
    assert workflow.verify().ok
    assert change(workflow, left_alone_needed=0).left_alone_needed is None
    assert workflow.verify().ok
    with workflow.sessions.begin() as session:
        new = NewCollection(name="strict", model=model_folder, left_alone_needed=1)
        assert create(session, new, ADA).left_alone_needed == 1
        with pytest.raises(InvalidRequest, match="none is tried"):
            create(session, new.model_copy(update={"name": "lax", "preflight": Preflight.NONE}), ADA)
    assert workflow.verify().ok


def test_a_forged_share_is_found_and_an_impossible_one_refused(workflow, tamper):
    change(workflow, preflight=Preflight.KEYS, left_alone_needed=0.9)
    with pytest.raises(IntegrityError, match="left_alone_needed"), workflow.sessions.begin() as session:
        session.execute(text("UPDATE collections SET left_alone_needed = 1.5"))
    tamper("UPDATE collections SET left_alone_needed = NULL")
    assert ["left_alone_needed" in each.detail for each in workflow.verify().findings] == [True]


def test_near_misses_that_quote_an_edit_are_erased_with_it():
    about = {"kind": "subject", "text": "Who runs Acme?", "by_edit": 2, "answer": "Jo", "subject_of": 1}
    by = {"kind": "task", "text": "Who is Ada?", "by_edit": 1, "answer": "12 Elm", "subject_of": None}
    stays = {"kind": "task", "text": "Who?", "by_edit": None, "answer": None, "subject_of": None}
    report = [
        {"edit_id": 1, "near_misses": [stays]},
        {"edit_id": 2, "near_misses": [about, by, stays], "left_alone": 0.5},
    ]
    own, other = scrubbed(report, Erasing({1}, [], set()))
    assert own["near_misses"][0]["text"] == GONE
    assert [each["text"] for each in other["near_misses"]] == [GONE, GONE, "Who?"]
    assert [each["answer"] for each in other["near_misses"]] == [GONE, GONE, None]
    assert named_in(report[1], {1}) == {1}
    assert EditPreflight.model_validate({"answer_now": "x", **other}).left_alone == 0.5


@pytest.fixture
def melo(served, workflow, monkeypatch, tmp_path):
    """Call the program as ben, with keys pressed one after the other."""
    monkeypatch.setenv("MELO_API_URL", served)
    monkeypatch.setenv("MELO_API_KEY", KEY)
    monkeypatch.setenv("MELO_ACTOR", "ben")
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)

    def call(*arguments, keys=""):
        done = CliRunner().invoke(make_app(), list(map(str, arguments)), input=keys, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    with capture_logs():
        yield call


@pytest.fixture
def reviewed(workflow):
    """A batch, after its preflight, of two edits, of which the first would answer two near misses."""
    change(workflow, preflight=Preflight.TRAIN)
    batch = workflow.submit(
        PARIS, OSLO, message="capitals, it's all", training=Training(changes={"iterations": 9})
    ).batch
    paris, oslo = (edit.id for edit in view(workflow, batch.id).edits)
    misses = missed(paris, POEM, FLAG, answer="Paris\x1b[2J") + missed(None, "Where is it?")
    finish_preflight(workflow, batch.id, {paris: misses, oslo: []})
    return batch.id


def test_a_shown_batch_lists_the_near_misses_that_an_edit_would_answer_and_the_share(melo, reviewed):
    shown = melo("batch", "show", reviewed)
    assert "Edit 1 would also answer: 'Write a poem about France.' (task) → 'Paris" in shown
    assert "1 of 3 near misses (33.3%) are left alone." in shown
    assert f"melo batch review {reviewed}" in shown and "melo guard add EDIT" in shown
    assert "Where is it?" not in shown and "\x1b[2J" not in shown


def test_a_review_writes_the_batch_with_the_chosen_guards_and_changes_nothing(melo, workflow, reviewed, tmp_path):
    told = melo("batch", "review", reviewed, keys="xng")
    assert "2 of 2, task: edit 1 (What is the capital of France?) would answer" in told
    first, second = map(json.loads, (tmp_path / "batch-1-with-guards.jsonl").read_text().splitlines())
    assert first == {**PARIS, "unchanged": ["Where is Paris?", FLAG], "kind": "qa", "author": "ada"}
    assert second == {**OSLO, "kind": "qa", "author": "ada"}
    assert view(workflow, reviewed).state == "submitted"

    reject, submit = (line.strip() for line in told.splitlines()[-2:])
    assert reject.startswith(f"melo batch reject {reviewed} --reason")
    melo(*shlex.split(reject)[1:])
    melo(*shlex.split(submit)[1:])
    again = view(workflow, 2)
    assert (again.message, again.training) == ("capitals, it's all", {"iterations": 9})
    assert [edit.unchanged for edit in again.edits] == [["Where is Paris?", FLAG], []]


def test_a_review_that_is_left_or_chooses_nothing_writes_nothing(melo, reviewed, tmp_path):
    assert "nothing was written" in melo("batch", "review", reviewed, keys="q")
    assert "nothing was written" in melo("batch", "review", reviewed, keys="nn")
    with pytest.raises(CommandError, match="There is no terminal to choose at"):
        melo("batch", "review", reviewed, keys="g")
    assert list(tmp_path.iterdir()) == []


def test_a_review_prints_what_it_would_ask_as_json(melo, reviewed):
    found = json.loads(melo("batch", "review", reviewed, "--json"))
    assert [(each["edit"], each["text"]) for each in found["near_misses"]] == [(1, POEM), (1, FLAG)]


def test_a_batch_that_is_decided_or_had_no_preflight_cannot_be_reviewed(melo, workflow, reviewed):
    waiting, _ = submitted(workflow, {"prompt": "Who?", "target": "Jo"})
    with pytest.raises(CommandError, match="not been tried yet"):
        melo("batch", "review", waiting)
    approve(workflow, reviewed)
    with pytest.raises(CommandError, match="is approved"):
        melo("batch", "review", reviewed)


def test_the_command_line_sets_and_drops_the_share(melo):
    args = ("collection", "policy", "facts", "--reason", "near misses")
    assert "at least 90% of near misses are to be left alone" in melo(
        *args, "--preflight", "keys", "--left-alone", "0.9"
    )
    assert json.loads(melo("collection", "show", "facts", "--json"))["left_alone_needed"] == 0.9
    assert "near misses" not in melo(*args, "--left-alone", "0")
