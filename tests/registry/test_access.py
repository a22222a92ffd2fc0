"""Roles: what each may do, on every route, and nothing above."""

from fastapi.routing import iter_route_contexts

from registry.access.caller import Caller
from registry.api.gate import OPEN
from registry.api.http import Needs
from registry.base.vocabulary import Role
from tests.registry.keys import PARIS, carrying, key, other_collection
from tests.registry.problem import is_problem


def routes(api):
    """Every path and method of the API, with the roles that it needs."""
    for route in iter_route_contexts(api.app.routes):
        for method in (route.methods or set()) - {"HEAD"}:
            needs = [each.dependency for each in getattr(route, "dependencies", ()) if type(each.dependency) is Needs]
            yield method, route.path, needs


def filled(path):
    """A path with something in the place of each parameter."""
    values = {"collection": "facts", "name": "production", "number": "1"}
    parts = [
        values.get(part[1:-1], "1") if part.startswith("{") else part
        for part in path.split("/")
    ]  # fmt: skip
    return "/".join(parts)


def test_every_route_but_those_of_health_and_description_says_once_which_roles_it_needs(api):
    found = {(method, path): len(needs) for method, path, needs in routes(api)}
    assert {path for (_, path), needs in found.items() if not needs} == OPEN
    assert {needs for (_, path), needs in found.items() if path not in OPEN} == {1}
    assert len(found) > 30


def test_without_a_key_nothing_is_served_to_another_machine(remote, api):
    for method, path, _ in routes(api):
        answer = remote.request(method, filled(path))
        if path in OPEN:
            assert answer.status_code == 200, path
        elif answer.status_code != 429:  # so many tries are too many
            body = is_problem(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "melo key create" in body["remedy"]


def test_an_admin_of_one_collection_gets_at_nothing_of_another(api, remote, workflow, model_folder):
    other_collection(api, model_folder)
    workflow.submit(PARIS)  # batch 1 and edit 1 are of facts
    headers = key(api, role="admin", collection="other")
    for method, path, needs in routes(api):
        if path in OPEN or needs[0].anywhere:
            continue
        for query in ({}, {"collection": "other", "model": "other@1"} if needs[0].query is None else {}):
            answer = remote.request(method, filled(path), headers=headers, params=query)
            detail = is_problem(answer, 403, "role-needed")["detail"]
            assert "needs the role" in detail and "key ci" in detail, path
    assert [each["name"] for each in remote.get("/v1/collections", headers=headers).json()] == ["other"]
    assert remote.get("/v1/audit", params={"collection": "other"}, headers=headers).status_code == 200
    assert remote.get("/v1/resolve", params={"model": "other"}, headers=headers).status_code == 200


def test_what_does_not_exist_and_what_may_not_be_seen_are_refused_in_the_same_words(
    api, remote, workflow, model_folder
):
    other_collection(api, model_folder)
    workflow.submit(PARIS)
    headers = key(api, role="viewer", collection="other")

    def refusal(path):
        return is_problem(remote.get(path, headers=headers), 403, "role-needed")["detail"]

    assert refusal("/v1/batches/1").replace("'1'", "'2'") == refusal("/v1/batches/2")
    assert refusal("/v1/collections/facts").replace("facts", "none") == refusal("/v1/collections/none")


NEEDED = [
    ("GET", "/v1/collections", None, Role.VIEWER),
    ("GET", "/v1/collections/facts/batches", None, Role.VIEWER),
    ("GET", "/v1/batches/1", None, Role.VIEWER),
    ("GET", "/v1/audit?collection=facts", None, Role.VIEWER),
    ("GET", "/v1/collections/facts/aliases/production/history", None, Role.VIEWER),
    ("POST", "/v1/collections/facts/batches", {"edits": [{"prompt": "Who?", "target": "Jo"}]}, Role.EDITOR),
    ("POST", "/v1/batches/1/approve", {"reason": "checked"}, Role.APPROVER),
    ("POST", "/v1/edits/1/retrain", {"training": {"seed": 1}, "reason": "not learned"}, Role.EDITOR),
    ("POST", "/v1/edits/1/guards", {"prompts": ["When?"], "reason": "answered"}, Role.EDITOR),
    ("GET", "/v1/jobs", None, Role.VIEWER),
    ("GET", "/v1/collections/facts/queue", None, Role.VIEWER),
    ("POST", "/v1/collections/facts/queue", {"state": "paused", "reason": "later"}, Role.APPROVER),
    ("POST", "/v1/collections/facts/retire", {"edits": [1], "reason": "wrong"}, Role.APPROVER),
    ("POST", "/v1/collections/facts/rollback", {"to": 0, "reason": "wrong"}, Role.APPROVER),
    ("PUT", "/v1/collections/facts/aliases/production", {"version": 1}, Role.APPROVER),
    ("PUT", "/v1/collections/facts/protections/production", {"reason": "it serves"}, Role.ADMIN),
    ("PATCH", "/v1/collections/facts/policy", {"reason": "two eyes more", "approvals_needed": 2}, Role.ADMIN),
]


def test_a_key_may_do_what_its_role_covers_and_nothing_above(api, remote, workflow):
    workflow.submit(PARIS)
    keys = {role: key(api, f"for-{role}", role, "facts") for role in Role}
    for method, path, body, needed in NEEDED:
        for rank, (role, headers) in enumerate(keys.items()):
            answer = remote.request(method, path, json=body, headers=headers)
            if rank >= list(Role).index(needed):
                assert answer.status_code not in (401, 403), (method, path, role, answer.text)
            else:
                detail = is_problem(answer, 403, "role-needed")["detail"]
                assert f"needs the role {needed}" in detail and f"has {role} there" in detail


def test_only_an_admin_of_all_makes_collections_and_keys(api, remote, workflow, model_folder):
    for role in Role:
        everywhere, here = key(api, f"all-{role}", role), key(api, f"one-{role}", role, "facts")
        for path, body in (
            ("/v1/keys", {"name": "x", "roles": [{"role": "viewer"}]}),
            ("/v1/collections", {"name": "more", "model": model_folder}),
        ):
            assert remote.post(path, json=body, headers=here).status_code == 403
            allowed = remote.post(path, json=body, headers=everywhere).status_code
            assert allowed == (201 if role is Role.ADMIN else 403)


def test_in_a_collection_the_higher_of_two_roles_counts():
    caller = Caller("ada", "key/1", {None: Role.EDITOR, 1: Role.VIEWER, 2: Role.ADMIN})
    assert [caller.role_in(where) for where in (None, 1, 2, 3)] == [Role.EDITOR, Role.EDITOR, Role.ADMIN, Role.EDITOR]
    assert Caller("ben", "key/2", {2: Role.ADMIN}).role_in(None) is None


def test_the_record_names_the_keys_actor_and_role_whatever_the_request_says(api, remote, workflow):
    headers = key(api, "ci", "editor", "facts", actor="Ada L.")
    answer = remote.post(
        "/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={**headers, "X-Melo-Actor": "somebody else"}
    )
    assert answer.json()["batch"]["submitted_by"] == "Ada L."
    event = api.get("/v1/audit", params={"collection": "facts"}).json()[0]
    assert (event["actor"], event["role"], event["action"]) == ("Ada L.", "editor", "collection:batch:submit")


def test_an_editor_withdraws_their_own_batch_and_no_other(api, remote, workflow):
    headers = key(api, "ci", "editor", "facts")
    workflow.submit({"prompt": "Who?", "target": "Jo"})
    mine = remote.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers=headers).json()["batch"]["id"]
    refused = remote.post("/v1/batches/1/reject", json={"reason": "no"}, headers=headers)
    assert "submitted by ada" in is_problem(refused, 403, "role-needed")["detail"]
    withdrawn = remote.post(f"/v1/batches/{mine}/reject", json={"reason": "a slip"}, headers=headers)
    assert withdrawn.json()["state"] == "rejected"


def test_a_higher_role_in_a_collection_counts_beside_one_in_all(api, remote, workflow):
    roles = [{"role": "editor", "collection": None}, {"role": "approver", "collection": "facts"}]
    headers = carrying(api.post("/v1/keys", json={"name": "both", "roles": roles}).json()["key"])
    workflow.submit(PARIS)
    assert remote.post("/v1/batches/1/reject", json={"reason": "no"}, headers=headers).json()["state"] == "rejected"
    assert api.get("/v1/audit", params={"collection": "facts"}).json()[0]["role"] == "approver"
