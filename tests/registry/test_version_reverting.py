"""Taking back one version's change, and nothing else; and what the record tells of an edit afterwards."""

from dataclasses import replace
from datetime import timedelta

import pytest

from registry.base.errors import NotFound, WrongState
from registry.versions import comparing, reading
from registry.versions.edit_log import edit_log
from registry.versions.training_result import ClusterState
from tests.registry.workflow import BEN, key_of, merged, trained

FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = ("What is the capital of Spain?", "Seville")
ITALY = ("What is the capital of Italy?", "Milan")


def shared_cluster(workflow, *prompts):
    """A version whose edits, with one target, are in one cluster. Returns the edits' ids."""
    batch = workflow.submit(*({"prompt": prompt, "target": "x"} for prompt in prompts)).batch
    claim = workflow.claim(workflow.approve(batch.id))
    ids = [edit.id for edit in claim.edits]
    workflow.finish(claim, merged(trained(claim, workflow.content(0)), [-each for each in ids]))
    return ids


def join_cluster(workflow, prompt):
    """A version in which another edit joins the only cluster, whose centre and radius change."""
    claim = workflow.claim(workflow.approve(workflow.submit({"prompt": prompt, "target": "x"}).batch.id))
    number = workflow.newest()
    content = workflow.content(number)
    (cluster,) = content.clusters
    joined = ClusterState(
        cluster.cluster_no, key_of("moved"), 0.9, cluster.label, [*cluster.members, -claim.edits[0].id]
    )
    workflow.finish(claim, replace(trained(claim, content), changed=[joined]))
    return claim.edits[0].id


def test_reverting_a_version_takes_back_its_change_and_no_other(workflow):
    workflow.correct(FRANCE)
    workflow.correct((FRANCE[0], "Nice"), SPAIN, on_conflict="replace")
    workflow.correct(ITALY)
    version = workflow.revert(2)
    assert (version.number, version.kind, version.reverts, version.reason) == (4, "revert", 2, "it was wrong")
    assert {edit.prompt: edit.target for edit in workflow.content(4).edits.values()} == dict([FRANCE, ITALY])
    workflow.content(4).require_intact()
    # A revert is a version like others: taking it back brings the change again.
    assert workflow.revert(4).content_digest == workflow.content(3).content_digest


def test_what_a_retirement_took_out_of_a_cluster_comes_back_into_it(workflow):
    one, _ = shared_cluster(workflow, "a?", "b?")
    workflow.retire(one)
    workflow.revert(2)
    assert workflow.content(3).clusters == workflow.content(1).clusters


def test_a_cluster_that_changed_since_is_left_alone_and_the_point_gets_its_own(workflow):
    one, two = shared_cluster(workflow, "a?", "b?")
    workflow.retire(one)
    three = join_cluster(workflow, "c?")
    changed = workflow.content(3).clusters
    workflow.revert(2)
    content = workflow.content(4)
    content.require_intact()
    assert content.clusters[0] == changed[0]
    own = content.clusters[1]
    point = content.points[own.members[0]]
    assert (point.edit_id, own.centre, own.radius) == (one, point.key, workflow.content(1).clusters[0].radius)
    assert set(content.edits) == {one, two, three}


def test_reverting_what_joined_a_cluster_gives_it_back_its_centre_and_radius(workflow):
    shared_cluster(workflow, "a?", "b?")
    join_cluster(workflow, "c?")
    assert workflow.content(2).clusters != workflow.content(1).clusters
    assert workflow.revert(2).content_digest == workflow.content(1).content_digest
    assert workflow.content(3).clusters == workflow.content(1).clusters


def test_an_edit_that_changed_again_since_stands_in_the_way_and_is_named(workflow):
    workflow.correct(FRANCE, SPAIN)
    first, second = workflow.active()[FRANCE[0]], workflow.active()[SPAIN[0]]
    workflow.retire(first)
    workflow.correct((FRANCE[0], "Nice"))
    rival = workflow.active()[FRANCE[0]]
    with pytest.raises(WrongState, match=f"edit {rival} acts for the prompt of edit {first}"):
        workflow.revert(2)
    workflow.retire(second)
    with pytest.raises(WrongState, match=f"edit {first} no longer acts; edit {second} no longer acts"):
        workflow.revert(1)
    with pytest.raises(NotFound):
        workflow.revert(99)
    assert workflow.verify().verified["versions"] == 4


def test_reverting_a_rollback_goes_forth_again(workflow):
    workflow.correct(FRANCE)
    second = workflow.correct(SPAIN)
    workflow.rollback(1)
    assert workflow.revert(3).content_digest == second.content_digest


def test_an_edits_log_tells_its_whole_life(workflow):
    workflow.correct(FRANCE, SPAIN)
    edit = workflow.active()[FRANCE[0]]
    workflow.retire(edit)
    workflow.rollback(1)
    workflow.rollback(0)
    workflow.rollback(1)
    workflow.correct(ITALY)  # switches nothing
    workflow.revert(6)  # neither does this
    workflow.correct((FRANCE[0], "Nice"), on_conflict="replace")
    other = workflow.active()[FRANCE[0]]
    with workflow.sessions() as session:
        log = edit_log(session, edit)
        successor = edit_log(session, other)
    told = [(entry.what, entry.version, entry.acts) for entry in log.entries]
    assert told == [
        ("submit", None, None),
        ("approve", None, None),
        ("train", None, None),
        ("apply", 1, True),
        ("retire", 2, False),
        ("rollback", 3, True),
        ("rollback", 4, False),
        ("rollback", 5, True),
        ("replace", 8, False),
    ]
    assert [entry.who for entry in log.entries] == ["ada", "ben", "worker/w1", "ada", "ben", "ben", "ben", "ben", "ada"]
    assert log.entries[4].why == "no longer true"
    assert (log.entries[-1].other_edit, log.active) == (other, False)
    assert (successor.entries[-1].other_edit, successor.active) == (edit, True)
    with pytest.raises(NotFound), workflow.sessions() as session:
        edit_log(session, 4711)


def test_a_diff_lists_as_many_as_asked_and_counts_all(workflow):
    workflow.correct(*((f"question {n}?", "x") for n in range(5)))
    workflow.retire(*sorted(workflow.active().values())[:3])
    with workflow.open() as (session, collection):
        whole = comparing.diff(session, collection, 0, 1)
        few = comparing.diff(session, collection, 0, 1, limit=2)
        back = comparing.diff(session, collection, 2, 1, limit=1)
    assert ([edit.id for edit in few.added], few.edits) == ([edit.id for edit in whole.added[:2]], whole.edits)
    assert whole.edits.added == len(whole.added) == 5
    assert (len(back.added), back.edits.added, back.edits.retired) == (1, 3, 0)
    assert (back.clusters.added, back.blocks.added) == (3, 3)


def test_a_version_says_what_it_holds_and_what_it_changed(workflow):
    workflow.correct(FRANCE, SPAIN)
    workflow.correct((FRANCE[0], "Nice"), ITALY, on_conflict="replace")
    workflow.rollback(1)
    with workflow.open() as (session, collection):
        second, third = reading.show(session, collection, 2), reading.show(session, collection, 3)
    assert (second.parent, second.content_version, second.edit_count, second.cluster_count, second.block_count) == (
        1,
        2,
        3,
        3,
        3,
    )
    assert vars(second.changed) == {"added": 1, "retired": 0, "replaced": 1}
    assert (third.parent, third.content_version, third.restores, third.edit_count) == (2, 1, 1, 2)
    assert vars(third.changed) == {"added": 0, "retired": 1, "replaced": 1}


def test_what_was_newest_at_a_moment_is_what_was_made_last_before_it(workflow):
    made = [workflow.correct(FRANCE), workflow.correct(SPAIN), workflow.rollback(1)]
    tick = timedelta(microseconds=1)
    with workflow.open() as (session, collection):
        for version in made:
            assert reading.version_at(session, collection, version.created_at).number == version.number
            before = reading.version_at(session, collection, version.created_at - tick)
            assert (before.number if before else 0) == version.number - 1


def test_the_api_reverts_shows_and_tells(workflow, api):
    workflow.correct(FRANCE)
    workflow.correct(SPAIN)
    facts = "/v1/collections/facts"
    planned = api.post(f"{facts}/revert", json={"version": 1, "reason": "wrong", "dry_run": True}).json()
    assert (planned["number"], planned["diff"]["edits"]["retired"]) == (3, 1)
    assert len(api.get(f"{facts}/versions").json()) == 2
    made = api.post(f"{facts}/revert", json={"version": 1, "reason": "wrong"}).json()
    assert (made["kind"], made["reverts"], made["edit_count"]) == ("revert", 1, 1)
    refused = api.post(f"{facts}/revert", json={"version": 1, "reason": "wrong"})
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong-state")
    assert api.get(f"{facts}/versions/3").json()["changed"] == {"added": 0, "retired": 1, "replaced": 0}
    version_at = api.get(f"{facts}/versions/at", params={"time": made["created_at"]}).json()
    assert (version_at["number"], version_at["version"]["content_digest"]) == (3, made["content_digest"])
    assert api.get(f"{facts}/versions/at", params={"time": "1999-01-01T00:00:00Z"}).json()["number"] == 0
    assert api.get(f"{facts}/versions/at", params={"time": "1999-01-01T00:00:00"}).status_code == 422
    assert [entry["what"] for entry in api.get("/v1/edits/1/log").json()["entries"]][-2:] == ["apply", "revert"]
    assert BEN.name in str(api.get("/v1/edits/1/log").json())
