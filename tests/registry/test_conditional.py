"""ETags: nothing is sent twice to who has it, and nobody undoes unseen what another did."""

import threading

import pytest

from tests.registry.problem import is_problem


@pytest.fixture
def versions(workflow):
    for prompt in ("Who leads Rome?", "Who leads Oslo?", "Who leads Bern?"):
        workflow.correct((prompt, "Mara"))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/collections/facts/versions/1",
        "/v1/collections/facts/diff?a=1&b=3",
        "/v1/resolve?model=facts@2",
    ],
)
def test_an_answer_that_the_client_has_is_not_sent_again(api, versions, path):
    first = api.get(path)
    tag = first.headers["ETag"]
    assert tag.startswith('"') and "no-cache" in first.headers["Cache-Control"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = api.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert api.get(path, headers={"If-None-Match": '"other"'}).json() == first.json()


def test_a_versions_tag_changes_only_with_what_its_answer_says(api, versions, workflow):
    path = "/v1/collections/facts/versions/1"
    tag = api.get(path).headers["ETag"]
    workflow.rollback(2)
    api.put("/v1/collections/facts/aliases/production", json={"version": 2})
    assert api.get(path).headers["ETag"] == tag
    api.put("/v1/collections/facts/aliases/production", json={"version": 1})
    moved = api.get(path, headers={"If-None-Match": tag})
    assert (moved.status_code, moved.json()["aliases"]) == (200, ["production"])


def test_an_alias_is_not_moved_by_who_has_not_seen_where_it_points(api, versions):
    path = "/v1/collections/facts/aliases/production"
    is_problem(api.put(path, json={"version": 1}, headers={"If-Match": '"x"'}), 412, "moved-meanwhile")
    is_problem(api.put(path, json={"version": 1}, headers={"If-Match": "*"}), 412, "moved-meanwhile")
    is_problem(api.get(path), 404, "not-found")
    made = api.put(path, json={"version": 1})
    seen = api.get(path).headers["ETag"]
    assert made.headers["ETag"] == seen
    moved = api.put(path, json={"version": 2}, headers={"If-Match": seen})
    assert moved.json()["number"] == 2
    body = is_problem(api.put(path, json={"version": 3}, headers={"If-Match": seen}), 412, "moved-meanwhile")
    assert "facts@production" in body["detail"]
    assert api.get(path).json()["number"] == 2
    assert len(api.get(f"{path}/history").json()) == 2
    # There and back again: it points where it did, but not since then.
    api.put(path, json={"version": 1})
    is_problem(api.put(path, json={"version": 3}, headers={"If-Match": seen}), 412, "moved-meanwhile")


def test_of_many_who_saw_the_same_alias_one_moves_it(api, versions):
    path = "/v1/collections/facts/aliases/production"
    seen = api.put(path, json={"version": 1}).headers["ETag"]
    statuses = []

    def move(number: int) -> None:
        statuses.append(api.put(path, json={"version": number}, headers={"If-Match": seen}).status_code)

    threads = [threading.Thread(target=move, args=(number,)) for number in (2, 3) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [412] * 7
    assert len(api.get(f"{path}/history").json()) == 2
