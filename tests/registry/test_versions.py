"""Versions: what makes one, what it consists of, and how an older one comes back."""

import threading
from array import array
from contextlib import suppress
from dataclasses import replace

import pytest

from registry.audit import service as audit
from registry.base.digests import float32s, sha256_hex
from registry.base.errors import InvalidRequest, InvalidResult, LeaseLost, NotFound, StaleBase, WrongState
from registry.batches.training import Training
from registry.versions import aliases, comparing, reading
from registry.versions.training_result import Overlap
from tests.registry.workflow import BEN, key_of, merged, trained

FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = ("What is the capital of Spain?", "Seville")
ITALY = ("What is the capital of Italy?", "Milan")


def test_an_applied_batch_is_a_version_with_its_edits_blocks_and_clusters(workflow):
    version = workflow.correct(FRANCE, SPAIN)
    content = workflow.content(1)
    assert (version.number, version.kind, version.edit_count, version.author) == (1, "apply", 2, "ada")
    assert {edit.prompt for edit in content.edits.values()} == {FRANCE[0], SPAIN[0]}
    assert [cluster.label for cluster in content.clusters] == [tuple(FRANCE[1].encode()), tuple(SPAIN[1].encode())]
    assert all(sha256_hex(block.data) == block.sha256 for block in content.blocks.values())
    assert content.collection.calibration == b"mean and covariance"
    content.require_intact()


def test_keys_come_back_with_the_bits_that_went_in(workflow):
    workflow.correct(FRANCE)
    (point,) = workflow.content(1).points.values()
    assert point.key == float32s(key_of(FRANCE[0]))
    assert point.key_bytes == array("f", key_of(FRANCE[0])).tobytes()


def test_a_version_costs_what_it_changes(workflow, engine):
    workflow.correct(FRANCE, SPAIN)
    workflow.correct(ITALY)
    with engine.connect() as connection:
        states = connection.exec_driver_sql("SELECT count(*) FROM clusters").scalar()
    assert states == 3
    assert len(workflow.content(1).clusters) == 2
    assert len(workflow.content(2).clusters) == 3


def test_the_digest_does_not_depend_on_row_ids(workflow, sessions):
    first = workflow.correct(FRANCE)
    workflow.rollback(0)
    # Another version, another cluster number, the same content.
    again = workflow.correct(FRANCE)
    assert again.number == 3
    assert again.content_digest == first.content_digest
    assert workflow.content(1).clusters[0].cluster_no != workflow.content(3).clusters[0].cluster_no


def test_a_retired_edit_no_longer_acts_in_any_later_version(workflow):
    workflow.correct(FRANCE, SPAIN)
    gone = workflow.active()[FRANCE[0]]
    version = workflow.retire(gone)
    assert (version.number, version.kind, version.edit_count) == (2, "retire", 1)
    assert list(workflow.active()) == [SPAIN[0]]
    workflow.correct(ITALY)
    for number, expected in ((1, 2), (2, 1), (3, 2)):
        content = workflow.content(number)
        content.require_intact()
        assert len(content.edits) == expected
        assert (gone in content.edits) == (number == 1)
        assert any(point.edit_id == gone for point in content.points.values()) == (number == 1)


def test_retiring_leaves_the_centre_and_radius_of_a_shared_cluster(workflow):
    batch = workflow.submit({"prompt": "a?", "target": "x"}, {"prompt": "b?", "target": "x"}).batch
    claim = workflow.claim(workflow.approve(batch.id))
    one, two = (edit.id for edit in claim.edits)
    workflow.finish(claim, merged(trained(claim, workflow.content(0)), [-one, -two]))
    before = workflow.content(1).clusters[0]
    workflow.retire(one)
    after = workflow.content(2).clusters[0]
    assert after.cluster_no == before.cluster_no
    assert (after.centre, after.radius, after.label) == (before.centre, before.radius, before.label)
    assert [workflow.content(2).points[point].edit_id for point in after.members] == [two]
    assert after.digest != before.digest


def test_retiring_what_is_not_active_is_refused(workflow):
    workflow.correct(FRANCE)
    edit = workflow.active()[FRANCE[0]]
    workflow.retire(edit)
    with pytest.raises(WrongState, match=f"Edit {edit} .* is not active"):
        workflow.retire(edit)
    with pytest.raises(NotFound, match="no edit 999"):
        workflow.retire(999)


def test_a_rollback_is_a_new_version_with_the_old_content(workflow):
    first = workflow.correct(FRANCE)
    second = workflow.correct(SPAIN)
    back = workflow.rollback(1)
    assert (back.number, back.kind, back.restores) == (3, "rollback", 1)
    assert back.content_digest == first.content_digest != second.content_digest
    old, new = workflow.content(1), workflow.content(3)
    assert (old.clusters, old.points, old.blocks, old.edits) == (new.clusters, new.points, new.blocks, new.edits)
    # What was rolled back from can still be had, and be gone back to.
    workflow.content(2).require_intact()
    assert workflow.rollback(2).content_digest == second.content_digest


def test_rolling_back_to_zero_leaves_nothing_active(workflow):
    workflow.correct(FRANCE)
    version = workflow.rollback(0)
    assert version.edit_count == 0
    assert workflow.content(2).clusters == ()
    assert version.content_digest == workflow.content(0).content_digest


def test_a_rollback_undoes_a_replacement(workflow):
    first = workflow.correct(FRANCE)
    workflow.correct((FRANCE[0], "Nice"), on_conflict="replace")
    assert [edit.target for edit in workflow.content(2).edits.values()] == ["Nice"]
    back = workflow.rollback(1)
    assert back.content_digest == first.content_digest
    assert [edit.target for edit in workflow.content(3).edits.values()] == ["Lyon"]


@pytest.mark.parametrize(("to", "error"), [(1, InvalidRequest), (7, NotFound)])
def test_rolling_back_to_the_newest_or_an_unknown_version_is_refused(workflow, to, error):
    workflow.correct(FRANCE)
    with pytest.raises(error):
        workflow.rollback(to)


def test_a_result_built_on_an_older_version_is_refused_and_stores_nothing(workflow, engine):
    for prompt in ("a?", "b?"):
        training = Training(changes={"batch": 2})
        workflow.approve(workflow.submit({"prompt": prompt, "target": "x"}, training=training).batch.id)
    one, two = workflow.take()
    result = trained(two, workflow.content(0))
    workflow.finish(one)
    with pytest.raises(StaleBase):
        workflow.finish(two, result)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM blocks").scalar() == 1
    # Built again on the newest, the same claim succeeds.
    assert workflow.finish(two).number == 2


WRONG_RESULTS = {
    "a member that is no point": lambda good, cluster: {"changed": [replace(cluster, members=[-99])]},
    "a stored point that does not exist": lambda good, cluster: {"changed": [replace(cluster, members=[12345])]},
    "a cluster that does not exist": lambda good, cluster: {"changed": [replace(cluster, cluster_no=77)]},
    "a point in two clusters": lambda good, cluster: {"changed": [cluster, cluster]},
    "a radius that is not a number": lambda good, cluster: {"changed": [replace(cluster, radius=float("nan"))]},
    "an edit of another batch": lambda good, cluster: {"points": [replace(good.points[0], edit_id=4711)]},
    "a block that does not exist": lambda good, cluster: {"points": [replace(good.points[0], block=-99)]},
}


@pytest.mark.parametrize("wrong", WRONG_RESULTS)
def test_a_result_is_refused_whole_if_a_part_does_not_fit(workflow, engine, wrong):
    claim = workflow.claim(workflow.approve(workflow.submit({"prompt": "a?", "target": "x"}).batch.id))
    good = trained(claim, workflow.content(0))
    with pytest.raises(InvalidResult):
        workflow.finish(claim, replace(good, **WRONG_RESULTS[wrong](good, good.changed[0])))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM blocks").scalar() == 0
    assert workflow.finish(claim, good).number == 1


def test_another_encoder_or_calibration_than_the_first_jobs_is_refused(workflow):
    workflow.correct(FRANCE)
    claim = workflow.claim(workflow.approve(workflow.submit({"prompt": "b?", "target": "y"}).batch.id))
    good = trained(claim, workflow.content(1))
    with pytest.raises(InvalidResult, match="encoder"):
        workflow.finish(claim, replace(good, encoder_digest=sha256_hex(b"another")))
    with pytest.raises(InvalidResult, match="calibration"):
        workflow.finish(claim, replace(good, calibration=b"another"))


def test_forgotten_points_are_events_that_name_both_edits(workflow, sessions):
    workflow.correct(FRANCE)
    old = workflow.active()[FRANCE[0]]
    claim = workflow.claim(workflow.approve(workflow.submit({"prompt": "b?", "target": "y"}).batch.id))
    new = claim.edits[0].id
    result = replace(trained(claim, workflow.content(1)), overlaps=[Overlap(new, old, True, 0.25)])
    workflow.finish(claim, result)
    with sessions() as session:
        (event,) = audit.log(session, collection_id=None, subject=f"edit/{old}", before=None, limit=10)
    assert event.action == "collection:edit:forget"
    assert event.details == {"edit": old, "by_edit": new, "version": 2, "distance": "0.250000"}


def test_eight_writers_at_once_number_versions_without_gaps(workflow):
    workflow.correct(*((f"question {n}?", f"answer {n}") for n in range(8)))
    edits = sorted(workflow.active().values())
    errors = []

    def write(edit: int) -> None:
        try:
            workflow.retire(edit)
            with suppress(InvalidRequest):  # another writer went back already
                workflow.rollback(1)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(edit,)) for edit in edits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with workflow.open() as (session, collection):
        numbers = [version.number for version in reading.page(session, collection, before=None, limit=100)]
    assert numbers == list(range(len(numbers), 0, -1))
    assert len(numbers) >= 9
    assert workflow.verify().findings == []


def test_a_diff_names_what_was_added_retired_and_replaced(workflow):
    workflow.correct(FRANCE, SPAIN)
    workflow.retire(workflow.active()[SPAIN[0]])
    workflow.correct((FRANCE[0], "Nice"), ITALY, on_conflict="replace")
    with workflow.open() as (session, collection):
        diff = comparing.diff(session, collection, 1, 3)
        back = comparing.diff(session, collection, 3, 1)
        same = comparing.diff(session, collection, 3, 3)
    assert [edit.prompt for edit in diff.added] == [ITALY[0]]
    assert [edit.prompt for edit in diff.retired] == [SPAIN[0]]
    assert [(pair.old.target, pair.new.target) for pair in diff.replaced] == [("Lyon", "Nice")]
    assert (diff.clusters.added, diff.clusters.removed) == (2, 2)
    assert (diff.blocks.added, diff.blocks.removed) == (2, 2)
    assert [edit.prompt for edit in back.added] == [SPAIN[0]]
    assert same.same_content
    assert not diff.same_content


def test_the_same_batch_cannot_be_applied_twice(workflow):
    claim = workflow.claim(workflow.approve(workflow.submit({"prompt": "a?", "target": "x"}).batch.id))
    workflow.finish(claim)
    with pytest.raises(LeaseLost):
        workflow.finish(claim)


def test_model_names_resolve_to_versions(workflow):
    workflow.correct(FRANCE)
    workflow.correct(SPAIN)
    with workflow.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 1, BEN)
    with workflow.open() as (session, _):
        found = {
            name: reading.resolve(session, name).number
            for name in ("facts", "facts@latest", "facts@production", "facts@2", "facts@base", "facts@0")
        }
        assert found == {
            "facts": 2, "facts@latest": 2, "facts@production": 1, "facts@2": 2, "facts@base": 0, "facts@0": 0,
        }  # fmt: skip
        for unknown in ("nothing@1", "facts@3", "facts@staging"):
            with pytest.raises(NotFound):
                reading.resolve(session, unknown)
        with pytest.raises(InvalidRequest):
            reading.resolve(session, "facts@")


def test_a_version_says_what_it_was_made_for_and_not_why_somebody_agreed(workflow):
    workflow.correct(("Who leads Rome?", "Mara"), message="the new board")
    oslo, bern, graz = (
        {"prompt": f"Who leads {city}?", "target": "Nils", "reason": reason}
        for city, reason in (("Oslo", "elected in May"), ("Bern", "elected in May"), ("Graz", "she retired"))
    )
    for records in ((oslo, bern), (graz, {"prompt": "Who leads Linz?", "target": "Nils"})):
        workflow.finish(workflow.claim(workflow.approve(workflow.submit(*records).batch.id)))
    workflow.rollback(1)
    with workflow.open() as (session, collection):
        found = reading.page(session, collection, before=None, limit=10)
        shown = reading.show(session, collection, 2)
    assert [each.purpose for each in found] == ["worked better", "", "elected in May", "the new board"]
    assert shown.purpose == "elected in May" and shown.reason == "checked"
