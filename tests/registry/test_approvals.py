"""Approvals: as many as the policy asks for, by whom it names, of a batch as a whole or in part."""

from io import StringIO

import pytest
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from cli.preflight import show_preflight
from registry.audit.actor import Actor
from registry.base.errors import InvalidEdits, InvalidRequest, NotApprover, SelfApproval, WrongState
from registry.base.vocabulary import Preflight
from registry.batches import deciding
from registry.batches import service as edits
from registry.batches.schemas import BatchView
from registry.collections import policy
from registry.collections.schemas import PolicyChange
from registry.edits import repository
from registry.jobs import service
from registry.jobs.preflights import remedies
from registry.jobs.schemas import EditPreflight, EditReport, NearEdit, Progress
from registry.versions import candidates, reading
from registry.versions.edit_log import edit_log
from tests.registry.workflow import ADA, BEN, trained

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}
OSLO = {"prompt": "What is the capital of Norway?", "target": "Oslo"}
BERN = {"prompt": "What is the capital of Switzerland?", "target": "Bern"}
CLEO, ROOT = Actor("cleo"), Actor("root")


def change(workflow, reason="two pairs of eyes", **wanted):
    with workflow.open() as (session, collection):
        policy.change(session, collection, PolicyChange(reason=reason, **wanted), ROOT)


def approve(workflow, batch_id, actor=BEN, *declined, reason="checked"):
    with workflow.sessions.begin() as session:
        deciding.approve(session, batch_id, actor, reason, declined)
    return view(workflow, batch_id)


def view(workflow, batch_id) -> BatchView:
    with workflow.sessions() as session:
        return edits.view(session, edits.get(session, batch_id))


def by_sql(workflow, statement):
    with workflow.sessions.begin() as session:
        session.execute(text(statement))


def last_event(workflow):
    with workflow.sessions() as session:
        return session.execute(text("SELECT * FROM audit_events ORDER BY seq DESC LIMIT 1")).one()


def test_a_batch_is_trained_only_after_two_different_people_approved_it(workflow):
    change(workflow, approvals_needed=2)
    batch = workflow.submit(PARIS, OSLO).batch
    first = approve(workflow, batch.id, BEN)
    assert (first.state, first.job, len(first.approvals), first.approvals_needed) == ("submitted", None, 1, 2)
    assert "1 of 2 approvals" in first.waits_for
    with pytest.raises(WrongState, match="ben has already approved batch 1: it has 1 of 2"):
        approve(workflow, batch.id, BEN)
    second = approve(workflow, batch.id, CLEO)
    assert (second.state, second.decided_by, second.job.state) == ("approved", "cleo", "queued")
    assert last_event(workflow).details["approvals"] == ["ben", "cleo"]
    change(workflow, approvals_needed=3)  # what was decided stays so
    assert workflow.finish(workflow.claim(second.job.id)).number == 1
    with workflow.open() as (session, collection):
        shown = reading.show(session, collection, 1)
    assert [approval.actor for approval in shown.approvals] == ["ben", "cleo"]
    assert workflow.verify().ok


def test_only_the_approvers_that_the_policy_names_may_approve_and_the_submitter_only_where_it_says_so(workflow):
    change(workflow, approvers=["cleo", "ada"])
    batch = workflow.submit(PARIS).batch
    with pytest.raises(NotApprover, match="Ask one of them: ada, cleo"):
        approve(workflow, batch.id, BEN)
    with pytest.raises(SelfApproval, match="melo collection policy facts --self-approval"):
        approve(workflow, batch.id, ADA)
    for actor in ("ben", "ada"):
        with pytest.raises(IntegrityError, match="cannot be approved by"):
            by_sql(workflow, f"INSERT INTO approvals (batch_id, actor, role) VALUES ({batch.id}, '{actor}', 'admin')")
    assert view(workflow, batch.id).approvals == []
    change(workflow, self_approval=True)
    assert approve(workflow, batch.id, ADA).state == "approved"
    assert workflow.verify().ok


def test_the_policy_that_holds_when_a_batch_is_decided_on_counts(workflow):
    change(workflow, approvals_needed=2)
    batch = workflow.submit(PARIS).batch
    approve(workflow, batch.id, BEN)
    change(workflow, approvers=["cleo", "dora"])  # ben's approval counts no longer
    assert approve(workflow, batch.id, CLEO).state == "submitted"
    waiting = view(workflow, batch.id)
    assert (waiting.approvals_counted, len(waiting.approvals)) == (1, 2)
    assert "(1 of 2 approvals)" in waiting.waits_for
    with pytest.raises(IntegrityError, match="has 1 of 2 approvals"):
        by_sql(
            workflow,
            "UPDATE batches SET state = 'approved', approvals_needed = 2, decided_by = 'cleo', decided_at = now()",
        )
    change(workflow, approvals_needed=1)
    decided = approve(workflow, batch.id, CLEO)  # the approval that is there is enough by now
    assert (decided.state, decided.approvals_needed, len(decided.approvals)) == ("approved", 1, 2)


def test_a_declined_edit_is_neither_trained_nor_applied_and_no_sql_activates_it(workflow):
    change(workflow, approvals_needed=2)
    batch = workflow.submit(PARIS, OSLO, BERN).batch
    with pytest.raises(InvalidRequest, match="no edit 99"):
        approve(workflow, batch.id, BEN, 99)
    approve(workflow, batch.id, BEN, 1)
    with pytest.raises(InvalidRequest, match="Reject it"):
        approve(workflow, batch.id, CLEO, 2, 3)
    assert approve(workflow, batch.id, CLEO, 2).declined == [1, 2]
    claim = workflow.claim(view(workflow, batch.id).job.id)
    assert [edit.id for edit in claim.edits] == [3]
    assert workflow.finish(claim).edit_count == 1
    assert workflow.active() == {BERN["prompt"]: 3}
    with workflow.sessions() as session:
        life = edit_log(session, 1).entries
    decisions = [(entry.what, entry.who) for entry in life if entry.what in ("approve", "decline")]
    assert decisions == [("decline", "ben"), ("approve", "cleo")]
    with pytest.raises(IntegrityError, match="edit 2 cannot become active"):
        by_sql(
            workflow,
            "INSERT INTO activations (collection_id, edit_id, prompt_key, valid) "
            "SELECT collection_id, id, prompt_key, '[1,)' FROM edits WHERE id = 2",
        )
    change(workflow, approvals_needed=1)
    workflow.correct((PARIS["prompt"], "Lutetia"))  # its prompt is free again
    assert workflow.verify().ok


def test_what_was_declined_stands_in_nobodys_way_and_what_was_approved_does(workflow):
    first, other = (workflow.submit(PARIS, OSLO).batch, workflow.submit(BERN).batch)
    approve(workflow, first.id, BEN, 1)
    again = workflow.submit(PARIS, actor=BEN).batch
    assert approve(workflow, again.id, CLEO).state == "approved"
    with pytest.raises(InvalidEdits):
        workflow.submit(OSLO)
    assert approve(workflow, other.id).state == "approved"


def test_many_declined_edits_do_not_slow_down_what_is_asked_and_guarded(workflow):
    batch = workflow.submit(*({"prompt": f"question {n}?", "target": "x"} for n in range(20_000))).batch
    with workflow.sessions() as session:
        found = repository.of_batch(session, batch.id)
        keys, ids = [edit.prompt_key for edit in found], [edit.id for edit in found]
    approve(workflow, batch.id, BEN, *ids[:10_000])
    with workflow.sessions() as session:
        session.execute(text("SET LOCAL statement_timeout = '1s'"))
        standing = repository.standing_by_key(session, batch.collection_id, keys)
        assert sorted(edit.id for edit in standing) == ids[10_000:]
        session.execute(text("CREATE TEMP TABLE n (edit_id bigint) ON COMMIT DROP"))
        session.execute(text("CREATE TRIGGER t AFTER INSERT ON n REFERENCING NEW TABLE AS opened "
                             "FOR EACH STATEMENT EXECUTE FUNCTION melo_require_approvals_of_edits()"))  # fmt: skip
        session.execute(text("INSERT INTO n SELECT id FROM edits WHERE id > :last"), {"last": ids[9_999]})
        with pytest.raises(IntegrityError, match=f"edit {ids[9_999]} cannot become active"):
            session.execute(text("INSERT INTO n SELECT id FROM edits WHERE id >= :last"), {"last": ids[9_999]})


def test_no_version_applies_a_batch_that_lacks_its_approvals(workflow, tamper):
    change(workflow, approvals_needed=2)
    batch = workflow.submit(PARIS).batch
    approve(workflow, batch.id, BEN)
    claim = workflow.claim(approve(workflow, batch.id, CLEO).job.id)
    with pytest.raises(IntegrityError, match="the record only grows"):
        by_sql(workflow, "DELETE FROM approvals")
    with pytest.raises(IntegrityError, match="needs 2 approvals, not 1"):
        by_sql(workflow, "UPDATE batches SET approvals_needed = 1")
    tamper("DELETE FROM approvals WHERE actor = 'cleo'")
    with pytest.raises(IntegrityError, match="cannot become active"):
        workflow.finish(claim)
    assert {each.subject for each in workflow.verify().findings} == {f"batch {batch.id}"}


@pytest.mark.parametrize(
    "forged",
    [
        "UPDATE approvals SET actor = 'mallory' WHERE actor = 'ben'",
        "UPDATE approvals SET declined = '{}'",
        "DELETE FROM approvals WHERE actor = 'ben'",
        "INSERT INTO approvals (batch_id, actor, role) VALUES (1, 'mallory', 'admin')",
        "UPDATE collections SET approvals_needed = 1, approvers = '{}'",
        "UPDATE batches SET approvals_needed = 1",
    ],
)
def test_a_forged_approval_or_policy_is_found(workflow, tamper, forged):
    change(workflow, approvals_needed=2, approvers=["ben", "cleo"])
    batch = workflow.submit(PARIS, OSLO).batch
    approve(workflow, batch.id, CLEO, 1)
    approve(workflow, batch.id, BEN, 1)
    assert workflow.verify().ok
    tamper(forged)
    assert not workflow.verify().ok


def test_a_failed_batch_keeps_its_approvals_and_is_queued_anew(workflow):
    batch = workflow.submit(PARIS, OSLO).batch
    claim = workflow.claim(approve(workflow, batch.id).job.id)
    with workflow.sessions.begin() as session:
        service.fail(session, claim, "out of memory")
    again = approve(workflow, batch.id)
    assert (again.state, len(again.approvals), again.job.id != claim.job_id) == ("approved", 1, True)
    with workflow.sessions.begin() as session:
        service.fail(session, workflow.claim(again.job.id), "out of memory")
    with pytest.raises(WrongState, match="never changed"):
        approve(workflow, batch.id, BEN, 1)
    third = approve(workflow, batch.id, CLEO, 1)
    assert workflow.finish(workflow.claim(third.job.id)).edit_count == 1
    assert workflow.verify().ok


def test_a_policy_changes_with_a_reason_and_an_event_that_tells_both(workflow):
    change(workflow, approvals_needed=2, approvers=["ben", "cleo", "ben"], preflight=Preflight.TRAIN)
    event = last_event(workflow)
    assert (event.action, event.actor, event.reason) == ("collection:policy:change", "root", "two pairs of eyes")
    assert event.details["before"] == {
        "approvals_needed": 1, "approvers": [], "self_approval": False, "preflight": "none",
        "left_alone_needed": None, "preflight_limits": {}, "log_share": "0x0.0p+0", "log_text": False, "log_days": 30,
    }  # fmt: skip
    assert event.details["after"] == {
        "approvals_needed": 2, "approvers": ["ben", "cleo"], "self_approval": False, "preflight": "train",
        "left_alone_needed": None, "preflight_limits": {}, "log_share": "0x0.0p+0", "log_text": False, "log_days": 30,
    }  # fmt: skip
    with pytest.raises(InvalidRequest, match="only 2 may"):
        change(workflow, approvals_needed=3)
    with pytest.raises(InvalidRequest, match="changes nothing"):
        change(workflow)
    with pytest.raises(IntegrityError, match="approvals_needed"):
        by_sql(workflow, "UPDATE collections SET approvals_needed = 0")


def test_an_approval_ends_a_preflight_that_waits_and_a_rejection_also_one_that_runs(workflow):
    change(workflow, preflight=Preflight.KEYS)
    waiting, running = workflow.submit(PARIS).batch, workflow.submit(OSLO).batch
    assert approve(workflow, waiting.id).preflight.state == "cancelled"
    assert workflow.claim(view(workflow, waiting.id).preflight.id) is None

    claim = workflow.claim(view(workflow, running.id).preflight.id)
    assert (claim.kind, view(workflow, running.id).state) == ("preflight", "submitted")
    with workflow.sessions.begin() as session:
        deciding.reject(session, running.id, BEN, "the source is wrong")
    with workflow.sessions.begin() as session:
        assert not service.heartbeat(session, claim, Progress())
    assert view(workflow, running.id).preflight.state == "cancelled"
    assert workflow.verify().ok


def test_a_training_waits_for_the_preflight_that_runs_unless_its_worker_is_gone(workflow):
    change(workflow, preflight=Preflight.KEYS)
    batch = workflow.submit(PARIS).batch
    preflight = workflow.claim(view(workflow, batch.id).preflight.id)
    job = approve(workflow, batch.id).job.id
    assert workflow.claim(job, "w2") is None
    assert "waits for the batch's preflight" in _hint_with_a_worker(workflow, batch.id)
    by_sql(workflow, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE kind = 'preflight'")
    assert workflow.claim(job, "w2").kind == "train"
    assert view(workflow, batch.id).preflight.state == "cancelled"
    with workflow.sessions.begin() as session:
        assert not service.heartbeat(session, preflight, Progress())


def test_a_preflight_that_nobody_waits_for_any_more_wakes_the_training_when_it_ends(workflow):
    change(workflow, preflight=Preflight.KEYS)
    batch = workflow.submit(PARIS).batch
    preflight = workflow.claim(view(workflow, batch.id).preflight.id)
    job = approve(workflow, batch.id).job.id
    assert workflow.claim(job, "w2") is None  # its message is used up
    with workflow.sessions.begin() as session:
        service.give_back(session, preflight)
        session.execute(text("DELETE FROM outbox"))
    assert workflow.claim(preflight.job_id) is None
    assert view(workflow, batch.id).preflight.state == "cancelled"
    with workflow.sessions() as session:
        assert session.scalars(text("SELECT job_id FROM outbox")).all() == [job]


def _hint_with_a_worker(workflow, batch_id):
    with workflow.sessions.begin() as session:
        service.worker_seen(session, "w1", "cpu")
    return view(workflow, batch_id).waits_for


def test_a_preflight_that_ends_stores_its_blocks_and_report_and_makes_no_version(workflow):
    change(workflow, preflight=Preflight.TRAIN)
    batch = workflow.submit(PARIS).batch
    claim = workflow.claim(view(workflow, batch.id).preflight.id)
    said = [EditPreflight(edit_id=1, answer_now="Lyon")]
    with workflow.sessions.begin() as session:
        candidates.finish_preflight(
            session, claim, said, trained(claim, workflow.content(0)), progress=None, timings={}, loss_curve=[]
        )
    found = view(workflow, batch.id)
    assert (found.state, found.preflight.report, found.version) == ("submitted", said, None)
    assert last_event(workflow).action == "collection:batch:preflight"
    assert workflow.content(0).edits == {} and workflow.verify().ok
    claim = workflow.claim(approve(workflow, batch.id).job.id)
    with workflow.sessions() as session:
        assert candidates.candidates(session, claim) == []  # the report tells nothing of a training


def test_the_terminal_shows_what_a_preflight_found_and_the_remedies_until_the_batch_is_decided_on(workflow):
    change(workflow, preflight=Preflight.TRAIN)
    batch = workflow.submit(PARIS, OSLO).batch
    claim = workflow.claim(view(workflow, batch.id).preflight.id)
    other = NearEdit(
        edit_id=9, prompt="Capital of France?", target="Lyon", distance=0.25, inside=True, same_target=False
    )
    learned = EditReport(edit_id=1, loss=0.01, iterations=9, reached=True, reproduced=True)
    said = [
        EditPreflight(
            edit_id=1, answer_now="Nice\x1b[2J", near=[other], remedies=remedies(1, 1, [other]), trained=learned
        ),
        EditPreflight(
            edit_id=2,
            answer_now="Bergen",
            answered_by=7,
            trained=learned.model_copy(update={"edit_id": 2, "reproduced": False, "answer": "Osl"}),
        ),
    ]  # fmt: skip
    with workflow.sessions.begin() as session:
        candidates.finish_preflight(session, claim, said, None, progress=None, timings={}, loss_curve=[])

    def shown() -> str:
        console = Console(file=StringIO(), width=200)
        show_preflight(console, view(workflow, batch.id))
        return console.file.getvalue()

    undecided = shown()
    assert "Bergen (edit 7)" in undecided and "9 at 0.25: Lyon" in undecided and "near contradiction" in undecided
    assert "submit it again with --replaces 9, leave it out (melo batch approve 1 --except 1), or reject" in undecided
    assert "answers 'Osl'" in undecided and "melo batch approve 1 --except 2" in undecided
    assert "\x1b[2J" not in undecided
    approve(workflow, batch.id, BEN, 2)
    assert "left out" in shown() and "--except" not in shown()


def test_the_api_takes_a_policy_and_an_approval_in_part(api, model_folder):
    api.post("/v1/collections", json={"name": "facts", "model": model_folder, "preflight": "keys"})
    changed = api.patch("/v1/collections/facts/policy", json={"approvals_needed": 2, "reason": "audit"})
    assert (changed.status_code, changed.json()["approvals_needed"], changed.json()["preflight"]) == (200, 2, "keys")
    for broken in (
        {"approvals_needed": 0, "reason": "x"},
        {"approvals_needed": 2},
        {"reason": "x", "preflight": "some"},
    ):
        assert api.patch("/v1/collections/facts/policy", json=broken).status_code == 422
    made = api.post("/v1/collections/facts/batches", json={"edits": [PARIS, OSLO]}, headers={"X-Melo-Actor": "ada"})
    batch = made.json()["batch"]
    assert (batch["preflight"]["state"], batch["approvals_needed"]) == ("queued", 2)
    path = f"/v1/batches/{batch['id']}/approve"
    half = api.post(path, json={"reason": "", "except": [1]}, headers={"X-Melo-Actor": "ben"}).json()
    assert (half["state"], half["declined"], half["approvals"][0]["actor"]) == ("submitted", [1], "ben")
    assert api.post(path, json={"except": [1]}, headers={"X-Melo-Actor": "cleo"}).json()["state"] == "approved"
