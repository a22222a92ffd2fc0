"""The queue over HTTP: when and how a batch is trained, stopping it, following it, and what jobs leave behind."""

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from registry.api import following
from registry.base.vocabulary import BatchState
from registry.batches.training import Training
from registry.client import MeloClient, MeloClientError
from registry.erasure import service as erasure
from registry.jobs import service as queue
from registry.jobs.schemas import Progress
from registry.versions.candidates import kept_blocks
from tests.operators_key import KEY, OPERATOR
from tests.patience import until
from tests.registry.keys import key, other_collection
from tests.registry.problem import is_problem
from tests.registry.workflow import BEN

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}
ROME = {"prompt": "Who leads Rome?", "target": "Mara"}


def submit(api, *edits, **options):
    return api.post("/v1/collections/facts/batches", json={"edits": list(edits), **options})


def approved(workflow, *edits, **options):
    """A batch that waits for its training; its id and its job's."""
    batch = workflow.submit(*edits, **options).batch
    return batch.id, workflow.approve(batch.id)


def test_a_batch_keeps_when_and_how_it_is_to_be_trained_and_its_event_tells(api, workflow):
    later = datetime.now(UTC) + timedelta(hours=2)
    options = {"priority": "high", "deadline": later.isoformat(), "edits_per_block": 2}
    batch = submit(api, PARIS, training={"iterations": 200, "rank": 4, "scale": 2}, **options).json()["batch"]

    assert batch["priority"] == "high"
    assert datetime.fromisoformat(batch["deadline"]) == later
    # What does not differ from the collection's settings is left out; what is given is as the method reads it.
    assert batch["training"] == {"iterations": 200, "scale": 2.0, "edits_per_block": 2}
    event = api.get("/v1/audit", params={"subject": "batch/1"}).json()[-1]
    assert event["details"]["priority"] == "high"
    assert event["details"]["training"].keys() == batch["training"].keys()
    assert "priority" not in api.get("/v1/audit").json()[-1]["details"]
    job = api.get(f"/v1/jobs/{workflow.approve(batch['id'])}").json()
    assert (job["settings"]["iterations"], job["settings"]["rank"]) == (200, 4)
    assert workflow.verify().findings == []


def test_lines_take_the_same_options_in_the_query(api, workflow):
    params = {"priority": "low", "training": '{"iterations": 5}', "edits_per_block": 3}
    headers = {"Content-Type": "application/x-ndjson"}
    path = "/v1/collections/facts/batches"
    batch = api.post(path, params=params, headers=headers, content=json.dumps(PARIS)).json()["batch"]
    assert (batch["priority"], batch["training"]) == ("low", {"iterations": 5, "edits_per_block": 3})
    broken = api.post(path, params={"training": "[1"}, headers=headers, content=json.dumps(ROME))
    is_problem(broken, 422, "invalid-request")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"training": {"radius": 0.5}}, "radius is the same for all edits of a collection"),
        ({"training": {"iteration": 5}}, "method setting 'iteration'"),
        ({"training": {"rank": "many"}}, "rank must be a whole number"),
        ({"training": {"edits_per_block": 2}, "edits_per_block": 3}, "given twice: 3, and 2"),
        ({"deadline": "2020-01-01T00:00:00+00:00"}, "has already passed"),
        ({"deadline": "2030-01-01T00:00:00"}, "timezone"),
        ({"deadline": "9999-12-31T23:59:59-12:00"}, "calendar"),
        ({"deadline": 4102444800}, "it is not a time such as"),
        ({"deadline": "4102444800"}, "it is not a time such as"),
        ({"edits_per_block": "4"}, "edits_per_block: Input should be a valid integer"),
        ({"edits_per_block": True}, "edits_per_block: Input should be a valid integer"),
        ({"training": {"rank": 10**9}}, "rank must be at most 4096"),
        ({"priority": "urgent"}, "priority"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_stored(api, workflow, options, told):
    for dry_run in (False, True):
        assert told in is_problem(submit(api, PARIS, dry_run=dry_run, **options), 422, "invalid-request")["detail"]
    assert api.get("/v1/collections/facts/batches").json() == []


def test_a_batch_in_training_is_cancelled_by_who_may_and_may_be_approved_again(api, remote, workflow):
    batch, job = approved(workflow, PARIS)
    claim = workflow.claim(job)
    stranger = key(api, name="cleo", role="editor", collection="facts")
    body = {"reason": "the wrong file"}
    assert remote.post(f"/v1/batches/{batch}/cancel", json=body, headers=stranger).status_code == 403
    for blank in ("", " "):
        refused = is_problem(api.post(f"/v1/batches/{batch}/cancel", json={"reason": blank}), 422, "invalid-request")
        assert refused["detail"] == "body.reason: it is empty."

    found = api.post(f"/v1/batches/{batch}/cancel", json=body).json()

    assert (found["state"], found["job"]["state"]) == ("cancelled", "cancelled")
    assert (found["decided_by"], found["reason"]) == ("anonymous", "the wrong file")
    assert found["decided_at"] > found["approvals"][0]["created_at"]
    assert workflow.verify().findings == []
    with workflow.sessions.begin() as session:
        assert not queue.heartbeat(session, claim, Progress())
    is_problem(api.post(f"/v1/batches/{batch}/cancel", json=body), 409, "wrong-state")
    workflow.finish(workflow.claim(workflow.approve(batch)))
    assert api.get(f"/v1/batches/{batch}").json()["version"] == 1
    assert workflow.verify().findings == []


def test_a_queue_is_paused_by_an_approver_and_shows_what_waits_in_its_order(api, remote, workflow):
    first, held = approved(workflow, PARIS)
    workflow.claim(held)
    batches = [
        submit(api, {**ROME, "prompt": f"Who leads city {n}?"}, priority=priority).json()["batch"]["id"]
        for n, priority in enumerate(["low", "normal", "high"])
    ]
    jobs = [workflow.approve(batch) for batch in batches]
    change = {"state": "paused", "reason": "the GPU is needed elsewhere"}
    path = "/v1/collections/facts/queue"
    editor = key(api, role="editor", collection="facts")
    assert remote.post(path, json=change, headers=editor).status_code == 403

    assert api.post(path, json=change).json()["queue"] == "paused"

    found = remote.get(path, headers=editor).json()
    assert found["state"] == "paused"
    assert [(each["batch_id"], each["worker"]) for each in found["running"]] == [(first, "w1")]
    assert [each["id"] for each in found["waiting"]] == jobs[::-1]
    assert found["waiting_count"] == 3
    assert all("melo collection resume facts" in each["waits_for"] for each in found["waiting"])
    assert api.get("/v1/collections/facts").json()["queue"] == "paused"
    assert workflow.claim(jobs[-1]) is None
    assert submit(api, ROME).status_code == 201  # which a draining one does not take
    api.post(path, json={"state": "draining", "reason": "before the migration"})
    for dry_run in (False, True):
        is_problem(submit(api, {**ROME, "prompt": "Who?"}, dry_run=dry_run), 409, "queue-closed")
    assert api.post(path, json={"state": "open", "reason": "done"}).json()["queue"] == "open"
    assert workflow.verify().findings == []


def retrain(api, edit, **body):
    body = {"training": {"iterations": 200}, "reason": "not learned", **body}
    return api.post(f"/v1/edits/{edit}/retrain", json=body)


def test_an_edit_is_trained_again_as_a_batch_that_takes_its_place(api, workflow):
    record = {**PARIS, "author": "dora", "source": "https://example.org", "reason": "wrong", "kind": "completion"}
    record |= {"rephrases": ["France's capital?"], "unchanged": ["Who?"]}
    workflow.finish(workflow.claim(approved(workflow, record)[1]))
    (old,) = api.get("/v1/collections/facts/edits").json()

    batch = retrain(api, old["id"], priority="high").json()

    (new,) = batch["edits"]
    same = ("prompt", "target", "rephrases", "unchanged", "kind", "author", "source", "digest")
    assert {name: new[name] for name in same} == {name: old[name] for name in same}
    assert (new["replaces"], new["reason"]) == (old["id"], "not learned")
    assert (batch["state"], batch["priority"], batch["training"]) == ("submitted", "high", {"iterations": 200})
    refused = is_problem(retrain(api, old["id"]), 409, "wrong-state")
    assert f"batch {batch['id']}" in refused["detail"]
    job = workflow.approve(batch["id"])
    workflow.finish(workflow.claim(job))
    assert workflow.active() == {PARIS["prompt"]: new["id"]}
    assert api.get(f"/v1/jobs/{job}").json()["settings"]["iterations"] == 200
    assert "is not active" in is_problem(retrain(api, old["id"]), 409, "wrong-state")["detail"]
    assert workflow.verify().findings == []


def test_an_edit_gets_more_guards_as_a_batch_that_takes_its_place(api, workflow):
    record = {**PARIS, "unchanged": ["Who?"], "rephrases": ["France's capital?"]}
    job = approved(workflow, record, training=Training(changes={"iterations": 200}))[1]
    workflow.finish(workflow.claim(job))

    def guard(*prompts):
        return api.post("/v1/edits/1/guards", json={"prompts": prompts, "reason": "it was answered"})

    for prompts, told in (
        ((" Who?  ", "Who?"), "has these guards"),
        ((" France's capital? ",), "is what edit 1 corrects"),
    ):
        assert told in is_problem(guard(*prompts), 422, "invalid-request")["detail"]
    batch = guard("Who?", "How old is Paris?", "How old is Paris?").json()

    (new,) = batch["edits"]
    assert (new["unchanged"], new["replaces"], new["prompt"]) == (["Who?", "How old is Paris?"], 1, PARIS["prompt"])
    assert (batch["state"], batch["training"]) == ("submitted", {"iterations": 200})
    assert "being replaced" in is_problem(guard("Why?"), 409, "wrong-state")["detail"]
    claim = workflow.claim(workflow.approve(batch["id"]))
    with workflow.sessions() as session:
        (kept,) = kept_blocks(session, claim)
    assert (kept.edit_id, kept.block.id) == (2, 1)
    workflow.finish(claim)
    assert workflow.active() == {PARIS["prompt"]: 2}
    assert workflow.verify().findings == []


def test_what_cannot_be_trained_again_is_refused(api, workflow):
    workflow.correct(("Who leads Rome?", "Mara"), ("Who leads Oslo?", "Nils"))
    waiting = workflow.submit({**PARIS, "replaces": 2}).batch
    for edit, body, status, told in [
        (7, {}, 404, "no edit 7"),
        (3, {}, 409, "is not active"),
        (2, {}, 409, f"batch {waiting.id}"),  # by another prompt
        (1, {"training": {}}, 422, "training"),
        (1, {"training": {"layers": 2}}, 422, "layers is the same for all"),
        (1, {"reason": ""}, 422, "reason"),
    ]:
        refused = retrain(api, edit, **body)
        assert refused.status_code == status
        assert told in refused.json()["detail"]
    workflow.retire(1)
    with workflow.sessions.begin() as session:
        erasure.erase(session, [1], BEN, "asked to", dry_run=False)
    assert "erased" in is_problem(retrain(api, 1), 409, "wrong-state")["detail"]


def test_a_batch_is_followed_until_it_is_applied(served, workflow, monkeypatch):
    monkeypatch.setattr(following, "LONGEST_SECONDS", 1.5)  # the client asks again
    batch = workflow.submit(PARIS).batch.id
    told = Progress(stage="train", done=1, total=2, loss=0.5, seconds_left=3.0)
    with MeloClient(served, KEY) as client:
        events = client.follow(batch)
        first = next(events)
        assert first.state is BatchState.SUBMITTED and "waits for a decision" in first.waits_for
        claim = workflow.claim(workflow.approve(batch))
        assert next(each for each in events if each.state is BatchState.TRAINING).attempt == 1
        with workflow.sessions.begin() as session:
            queue.heartbeat(session, claim, told)
        assert next(each for each in events if each.progress).progress == told
        time.sleep(2)  # the longest time of an answer passes, and nothing is lost
        workflow.finish(claim)
        *_, last = events

    assert (last.state, last.version) == (BatchState.APPLIED, 1)


def test_a_stream_that_breaks_off_is_asked_for_again_and_nothing_is_lost(served, workflow, monkeypatch):
    whole, opened = following.events, []

    async def broken(sessions, batch_id):
        opened.append(batch_id)
        async for event in whole(sessions, batch_id):
            yield event
            if len(opened) == 1:
                raise RuntimeError("the server goes down")

    monkeypatch.setattr(following, "events", broken)
    batch = workflow.submit(PARIS).batch.id
    with MeloClient(served, KEY) as client:
        events = client.follow(batch)
        assert next(events).state is BatchState.SUBMITTED
        assert next(events).state is BatchState.SUBMITTED  # of the second answer
        workflow.finish(workflow.claim(workflow.approve(batch)))
        *_, last = events
    assert last.state is BatchState.APPLIED
    assert len(opened) == 2


def test_streams_are_server_sent_events_that_end_with_their_reader_and_are_counted(served_app, workflow, monkeypatch):
    monkeypatch.setattr(following, "MOST_STREAMS", 1)
    app, url = served_app
    batch = workflow.submit(PARIS).batch.id
    path = f"{url}/v1/batches/{batch}/events"
    with httpx.stream("GET", path, headers=OPERATOR) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == "event: progress"
        assert json.loads(next(lines).removeprefix("data: "))["state"] == "submitted"
        assert app.state.engine.pool.checkedout() == 0  # between two looks
        refused = httpx.get(path, headers=OPERATOR)
        assert (refused.status_code, refused.json()["code"]) == (429, "too-many-requests")
        assert refused.headers["Retry-After"]
    until(lambda: app.state.streams.open["operator"] == 0)
    assert httpx.get(f"{url}/v1/batches/99/events", headers=OPERATOR).status_code == 404
    with MeloClient(url, KEY) as client, pytest.raises(MeloClientError, match="no batch 99"):
        list(client.follow(99))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_keys SET revoked_at = now(), revoked_by = 'ada'",
        "UPDATE api_keys SET created_at = created_at - interval '1 day', expires_at = now()",
        "UPDATE api_key_roles SET role = 'viewer'",
        "UPDATE api_key_roles SET collection_id = NULL, key_id = 99",
    ],
)
def test_a_stream_ends_with_its_key_and_breaks_off_so_that_its_part_is_not_taken_for_the_whole(
    api, served_app, workflow, tamper, change
):
    app, url = served_app
    headers = key(api, "ci", "editor", "facts")
    batch = workflow.submit(PARIS).batch.id
    with httpx.stream("GET", f"{url}/v1/batches/{batch}/events", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: progress"
        tamper(change)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            list(lines)
    until(lambda: app.state.streams.open["key/1"] == 0)


def test_following_needs_a_role_where_the_batch_is(api, remote, workflow, model_folder):
    other_collection(api, model_folder)
    workflow.correct(("Who leads Rome?", "Mara"))
    elsewhere = key(api, name="elsewhere", role="viewer", collection="other")
    assert remote.get("/v1/batches/1/events", headers=elsewhere).status_code == 403
    viewer = key(api, name="viewer", role="viewer", collection="facts")
    ended = remote.get("/v1/batches/1/events", headers=viewer)
    assert ended.text.splitlines()[0] == "event: end"
    assert json.loads(ended.text.splitlines()[1].removeprefix("data: "))["version"] == 1


def test_a_training_does_not_count_what_was_left_out_of_its_batch(api, workflow):
    batch = workflow.submit(*({"prompt": f"Who leads {n}?", "target": "Mara"} for n in range(4))).batch
    taken = {"reason": "the others are right", "except": [2, 4]}
    assert api.post(f"/v1/batches/{batch.id}/approve", json=taken).status_code == 200
    (waiting,) = api.get("/v1/collections/facts/queue").json()["waiting"]
    (job,) = api.get("/v1/jobs").json()
    assert (waiting["edit_count"], job["edit_count"]) == (2, 2)


def test_jobs_are_listed_newest_first_where_the_caller_may_see_them(api, remote, workflow, model_folder):
    other_collection(api, model_folder)
    workflow.correct(("Who leads Rome?", "Mara"))
    _, job = approved(workflow, PARIS)
    unwanted, lost = approved(workflow, {**ROME, "prompt": "Who?"})
    api.post(f"/v1/batches/{unwanted}/cancel", json={"reason": "no"})

    found = api.get("/v1/jobs").json()

    assert [(each["id"], each["state"]) for each in found] == [(lost, "cancelled"), (job, "queued"), (1, "succeeded")]
    assert found[0]["collection"] == "facts" and found[0]["edit_count"] == 1
    assert [each["id"] for each in api.get("/v1/jobs", params={"state": "queued"}).json()] == [job]
    assert api.get("/v1/jobs", params={"kind": "preflight"}).json() == []
    assert api.get("/v1/jobs", params={"limit": 1}).links["next"]
    whole = api.get("/v1/jobs/1").json()
    assert (whole["kind"], whole["worker"], whole["timings"], whole["loss_curve"]) == (
        "train", "w1", {"train": 0.5}, [[0.1, 2.0], [0.5, 0.01]],
    )  # fmt: skip
    elsewhere = key(api, name="elsewhere", role="viewer", collection="other")
    assert remote.get("/v1/jobs", headers=elsewhere).json() == []
    assert remote.get("/v1/jobs/1", headers=elsewhere).status_code == 403
    unseen, missing = (
        remote.get("/v1/jobs", params={"collection": name}, headers=elsewhere) for name in ("facts", "none")
    )
    assert unseen.status_code == missing.status_code == 404
    assert unseen.json()["detail"].replace("facts", "none") == missing.json()["detail"]


def test_a_preflight_says_how_many_are_before_it(api, workflow, model_folder):
    other_collection(api, model_folder)
    with workflow.sessions.begin() as session:
        queue.worker_seen(session, "w1", "cpu")
    reasons = []
    for n in range(3):
        edits = [{**ROME, "prompt": f"Who leads city {n}?"}]
        reasons.append(api.post("/v1/collections/other/batches", json={"edits": edits}).json()["batch"]["waits_for"])
    assert reasons[0].endswith("The preflight waits for a worker.")
    assert reasons[1].endswith("The preflight waits for a worker; 1 is before it.")
    assert reasons[2].endswith("The preflight waits for a worker; 2 are before it.")
    assert "`melo batch reject 1 --reason …`" in reasons[0]
