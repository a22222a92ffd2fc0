"""Lists in pages: every record once, whatever happens meanwhile, by links that a client follows."""

import pytest

from registry.api.pages import encoded
from registry.jobs import service as queue
from tests.registry.problem import is_problem


def walked(api, url, **params) -> list[dict]:
    """All records of a list, following its links."""
    found, pages = [], 0
    answer = api.get(url, params=params)
    while True:
        assert answer.status_code == 200, answer.text
        assert 0 < len(answer.json()) <= params["limit"]
        found += answer.json()
        pages += 1
        if "next" not in answer.links:
            break
        answer = api.get(answer.url.join(answer.links["next"]["url"]))
    assert pages == -(-len(found) // params["limit"])  # and no empty one at the end
    return found


@pytest.fixture
def filled(workflow, api, model_folder):
    """Seven of everything that is listed."""
    for number in range(1, 8):
        workflow.correct((f"Who leads city {number}?", "Mara"))
        api.put("/v1/collections/facts/aliases/production", json={"version": number}).raise_for_status()
        api.put(f"/v1/collections/facts/aliases/a{number}", json={"version": number}).raise_for_status()
        api.post("/v1/webhooks", json={"url": f"https://example.org/{number}"}).raise_for_status()
        with workflow.sessions.begin() as session:
            queue.worker_seen(session, f"w{number}", "cpu")
        if number > 1:
            body = {"name": f"facts-{number}", "model": model_folder}
            api.post("/v1/collections", json=body).raise_for_status()


def test_the_links_of_every_list_lead_to_each_record_once_and_in_order(api, filled):
    for path, key, newest_first in (
        ("/v1/collections", "name", False),
        ("/v1/collections/facts/batches", "id", True),
        ("/v1/collections/facts/edits", "id", False),
        ("/v1/collections/facts/versions", "number", True),
        ("/v1/collections/facts/aliases", "name", False),
        ("/v1/collections/facts/aliases/production/history", "set_at", True),
        ("/v1/webhooks", "id", False),
        ("/v1/workers", "seen_at", True),
        ("/v1/audit", "seq", True),
    ):
        for limit in (3, 7):
            keys = [each[key] for each in walked(api, path, limit=limit)]
            assert len(keys) >= 7, path
            assert len(set(keys)) == len(keys), path
            assert keys == sorted(keys, reverse=newest_first), path


def test_what_is_filtered_stays_filtered_on_every_page(api, filled, workflow):
    edit_ids = [each["id"] for each in api.get("/v1/collections/facts/edits").json()]
    workflow.retire(*edit_ids[:3])
    active = walked(api, "/v1/collections/facts/edits", active=True, limit=2)
    assert [each["id"] for each in active] == edit_ids[3:]
    assert len(walked(api, "/v1/audit", collection="facts", subject="alias/facts/production", limit=2)) == 7


def test_records_that_are_made_meanwhile_neither_repeat_nor_hide_others(api, filled, workflow):
    first = api.get("/v1/collections/facts/versions", params={"limit": 3})
    workflow.rollback(1)
    second = api.get(first.url.join(first.links["next"]["url"]))
    assert [each["number"] for each in first.json() + second.json()] == [7, 6, 5, 4, 3, 2]


@pytest.mark.parametrize(
    "cursor", ["x", "é", encoded("facts"), encoded(0), encoded(2**70), encoded([1]), encoded(None)]
)
def test_a_cursor_that_the_list_did_not_hand_out_is_a_problem(api, workflow, cursor):
    body = is_problem(api.get("/v1/collections/facts/versions", params={"cursor": cursor}), 422, "invalid-request")
    assert "Link header" in body["remedy"]


def test_a_page_has_an_upper_bound(api, workflow):
    is_problem(api.get("/v1/collections/facts/versions", params={"limit": 10_001}), 422, "invalid-request")
    is_problem(api.get("/v1/collections/facts/versions", params={"limit": 0}), 422, "invalid-request")
