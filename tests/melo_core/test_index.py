"""The cluster index: insert, join, conflict, lookup."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melo_core.index import ClusterIndex, Outcome

PARIS, ROME = (1, 2), (3,)


def key(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def query(*values: float) -> torch.Tensor:
    return key(*values)[None]


def test_an_empty_index_covers_nothing():
    assert ClusterIndex(2, 1.0).lookup(query(0, 0)) is None


def test_a_query_is_covered_up_to_and_with_the_radius():
    index = ClusterIndex(2, 1.0)
    index.insert(7, key(0, 0), PARIS)
    at, beyond = index.lookup(query(1, 0)), index.lookup(query(1.001, 0))
    assert at and at.covers and at.point == 7 and at.distance == 1.0
    assert beyond and not beyond.covers


def test_the_nearest_of_a_querys_keys_counts():
    index = ClusterIndex(2, 1.0)
    index.insert(1, key(0, 0), PARIS)
    index.insert(2, key(10, 0), ROME)
    match = index.lookup(torch.stack([key(0.9, 0), key(10.1, 0)]))
    assert match and match.point == 2


def test_an_edits_own_prompt_always_finds_it_however_near_another_answer_lies():
    index = ClusterIndex(2, 1.0)
    index.insert(1, key(0, 0), PARIS)
    result = index.insert(2, key(0.1, 0), ROME)
    assert (result.outcome, result.other_point, result.forgotten) == (Outcome.OVERLAPS, 1, ())
    for point, where in ((1, query(0, 0)), (2, query(0.1, 0))):
        match = index.lookup(where)
        assert match and match.covers and match.point == point


def test_melo_joins_points_with_one_answer_around_their_mean():
    index = ClusterIndex(1, 1.0, "melo")
    index.insert(1, key(0), PARIS)
    result = index.insert(2, key(1.5), PARIS)
    assert result.outcome is Outcome.JOINED
    cluster = index.clusters[result.cluster]
    assert cluster.members == (1, 2) and cluster.centre.item() == 0.75 and cluster.radius == 1.0
    match = index.lookup(query(1.4))
    assert match and match.point == 2  # within a cluster, the nearest point's block


def test_a_label_is_the_exact_sequence_of_tokens():
    index = ClusterIndex(1, 1.0, "melo")
    index.insert(1, key(0), (1, 2))
    assert index.insert(2, key(0.5), (2, 1)).outcome is Outcome.OVERLAPS


def test_melo_shrinks_both_clusters_in_a_conflict_and_names_the_forgotten():
    index = ClusterIndex(1, 1.0, "melo")
    index.insert(1, key(0), PARIS)
    index.insert(2, key(1.8), PARIS)  # centre 0.9, radius 1
    result = index.insert(3, key(2.1), ROME)  # 1.2 away: radii 0.6, and both points are 0.9 from their centre
    assert (result.outcome, result.other_point, result.forgotten) == (Outcome.OVERLAPS, 2, (1, 2))
    assert [c.members for c in index.clusters.values()] == [(3,)]
    assert index.clusters[result.cluster].radius == pytest.approx(0.6)


def test_a_removed_point_is_never_found_and_the_others_stay_as_they_were():
    index = ClusterIndex(1, 1.0)
    for point, x in enumerate((0, 10, 20, 30)):
        index.insert(point, key(x), PARIS)
    index.remove(1)
    assert not index.lookup(query(10)).covers
    assert [index.lookup(query(x)).point for x in (0, 20, 30)] == [0, 2, 3]


vectors = st.lists(st.integers(-8, 8).map(lambda v: v / 4), min_size=3, max_size=3).map(lambda v: key(*v))
insertions = st.lists(st.tuples(vectors, st.sampled_from([PARIS, ROME, (4,)])), min_size=1, max_size=40)


def nearest_by_hand(index: ClusterIndex, keys: torch.Tensor) -> tuple[float, int]:
    """A brute-force oracle: every key against every centre."""
    return min(
        (torch.dist(k.double(), c.centre.double()).item(), c.number) for k in keys for c in index.clusters.values()
    )


@settings(max_examples=150, deadline=None)
@given(
    insertions,
    st.sampled_from(["nearest-point", "melo"]),
    st.lists(vectors, min_size=1, max_size=3),
    st.data(),
)
def test_invariants_hold_and_a_lookup_equals_brute_force(points, clustering, asked, data):
    index, forgotten = ClusterIndex(3, 0.7, clustering), set()
    for point, (vector, label) in enumerate(points):
        forgotten.update(index.insert(point, vector, label).forgotten)
    removed = data.draw(st.sets(st.integers(0, len(points) - 1)))
    for point in removed:
        index.remove(point)

    members = [p for c in index.clusters.values() for p in c.members]
    assert sorted(members) == sorted(set(range(len(points))) - forgotten - removed)
    for cluster in index.clusters.values():
        assert all(points[p][1] == cluster.label for p in cluster.members)
        assert all(torch.dist(index.keys[p], cluster.centre) <= cluster.radius + 1e-6 for p in cluster.members)
    if clustering == "nearest-point":
        assert not forgotten
    keys = torch.stack(asked)
    match = index.lookup(keys)
    assert (match is None) == (not index.clusters)
    if match:
        assert (match.distance, match.cluster) == nearest_by_hand(index, keys)

    reloaded = ClusterIndex(3, 0.7, clustering, index.clusters.values(), index.keys)
    assert reloaded.lookup(keys) == match
