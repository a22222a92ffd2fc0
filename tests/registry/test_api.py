"""The API: a correction's whole way, and who is served."""

import pytest

from tests.registry.problem import is_problem

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


def test_a_correction_goes_its_whole_way_through_the_api(api, workflow):
    answer = api.post(
        "/v1/collections/facts/batches", json={"edits": [PARIS], "message": "capitals"}, headers={"X-Melo-Actor": "ada"}
    )
    assert answer.status_code == 201
    batch = answer.json()["batch"]
    assert (batch["state"], batch["submitted_by"]) == ("submitted", "ada")
    assert "waits for a decision" in batch["waits_for"]
    approved = api.post(
        f"/v1/batches/{batch['id']}/approve", json={"reason": "checked"}, headers={"X-Melo-Actor": "ben"}
    ).json()
    assert (approved["state"], approved["job"]["state"]) == ("approved", "queued")
    assert "No worker is running" in approved["waits_for"]
    workflow.finish(workflow.claim(approved["job"]["id"]))
    shown = api.get(f"/v1/batches/{batch['id']}").json()
    assert (shown["state"], shown["version"], shown["job"]["loss_curve"]) == ("applied", 1, [[0.1, 2.0], [0.5, 0.01]])
    (edit,) = api.get("/v1/collections/facts/edits", params={"active": True}).json()
    assert edit["active_since"] == 1
    alias = api.put("/v1/collections/facts/aliases/production", json={"version": 1, "reason": "release"})
    assert alias.json()["number"] == 1
    plan = api.post(
        "/v1/collections/facts/retire", json={"edits": [edit["id"]], "reason": "wrong", "dry_run": True}
    ).json()
    assert (plan["number"], plan["diff"]["retired"][0]["id"]) == (2, edit["id"])
    assert len(api.get("/v1/collections/facts/versions").json()) == 1
    retired = api.post("/v1/collections/facts/retire", json={"edits": [edit["id"]], "reason": "wrong"}).json()
    assert (retired["number"], retired["kind"], retired["edit_count"]) == (2, "retire", 0)
    back = api.post("/v1/collections/facts/rollback", json={"to": 1, "reason": "it was right"}).json()
    assert back["content_digest"] == api.get("/v1/collections/facts/versions/1").json()["content_digest"]
    assert api.get("/v1/collections/facts/diff", params={"a": 1, "b": 3}).json()["same_content"]
    assert [each["aliases"] for each in api.get("/v1/collections/facts/versions").json()] == [[], [], ["production"]]
    assert api.get("/v1/resolve", params={"model": "facts@production"}).json()["number"] == 1
    events = api.get("/v1/audit", params={"collection": "facts"}).json()
    assert [event["actor"] for event in events][-3:] == ["ben", "ada", "ada"]
    assert api.get("/v1/audit/verify").json()["ok"]


def test_all_problems_of_a_submission_come_at_once(api, workflow):
    answer = api.post(
        "/v1/collections/facts/batches",
        json={"edits": [{"prompt": "", "target": "x", "line": 3}, PARIS, {**PARIS, "target": "Lyon"}, {"target": 1}]},
    )
    body = is_problem(answer, 422, "invalid-edits")
    assert {problem["position"] for problem in body["problems"]} == {1, 3, 4}
    assert body["problems"][0]["line"] == 3
    assert api.get("/v1/collections/facts/batches").json() == []


def test_every_answer_has_a_request_id_that_its_event_keeps(api, workflow):
    assert len(api.get("/healthz").headers["X-Request-ID"]) == 32
    answer = api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={"X-Request-ID": "req-7"})
    assert answer.headers["X-Request-ID"] == "req-7"
    assert api.get("/v1/audit", params={"limit": 1}).json()[0]["request_id"] == "req-7"
    assert api.get("/healthz", headers={"X-Request-ID": "a\tb"}).headers["X-Request-ID"] != "a\tb"


def test_actors_may_have_any_name_that_can_be_printed(api, workflow):
    answer = api.post(
        "/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={"X-Melo-Actor": "J%C3%BCrgen%20M."}
    )
    assert answer.json()["batch"]["submitted_by"] == "Jürgen M."
    is_problem(
        api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={"X-Melo-Actor": "a%0Ab"}),
        422,
        "invalid-request",
    )


@pytest.mark.parametrize("header", [None, "Bearer wrong", "s3cret", "Bearer", "Basic s3cret", "Bearer s3cret2"])
def test_with_a_key_set_no_request_is_served_without_it(remote, header):
    headers = {"Authorization": header} if header else {}
    answer = remote.get("/v1/collections", headers=headers)
    is_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
