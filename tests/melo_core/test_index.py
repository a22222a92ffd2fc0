"""The cluster index: insert, join, conflict, lookup."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melo_core.centres import CACHED_ROWS, distance
from melo_core.index import Cluster, ClusterIndex, Outcome

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
    """A brute-force oracle: every key against every centre, each pair by itself."""
    return min((distance(k, c.centre), c.number) for k in keys for c in index.clusters.values())


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


@pytest.mark.parametrize("numbers", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_of_equally_near_clusters_the_least_content_counts_whatever_their_numbers(numbers):
    places, contents = (key(1, 0), key(-1, 0), key(0, 1)), ("b", "a", "c")
    index = ClusterIndex(
        2,
        0.1,
        clusters=[Cluster(n, where, 0.1, (i,), (i,)) for i, (n, where) in enumerate(zip(numbers, places, strict=True))],
        keys=dict(enumerate(places)),
        contents=dict(enumerate(contents)),
    )
    assert index.lookup(query(0, 0)).point == 1
    assert [match.point for match, _ in index.within(query(0, 0), 2.0)] == [1, 0, 2]
    assert index.insert(9, key(0, 0), PARIS, "d").distance == 1.0


def test_of_equally_near_clusters_without_content_the_lower_number_counts_and_not_the_row_it_lies_in():
    index = ClusterIndex(2, 0.1)
    for point, where in enumerate(((9, 9), (1, 0), (-1, 0), (0, 1))):
        index.insert(point, key(*where), PARIS)
    index.remove(0)  # the last cluster takes the first row
    match = index.lookup(query(0, 0))
    assert match and match.point == 1


def close_lying(seed: int, rows: int, dimension: int, scale: float, spread: float) -> torch.Tensor:
    """Keys in bunches, `spread` wide, some of them twice: hard to tell apart from coarse copies."""
    generator = torch.Generator().manual_seed(seed)
    bunches = torch.randn(1 + rows // 8, dimension, generator=generator)
    chosen = bunches[torch.randint(len(bunches), (rows,), generator=generator)]
    keys = chosen + spread * torch.randn(rows, dimension, generator=generator)
    keys[rows // 2] = keys[0]
    return scale * keys


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(2, 300),
    dimension=st.sampled_from([1, 2, 7, 64, 384]),
    scale=st.sampled_from([1e-6, 1.0, 300.0]),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 0.3]),
    outlier=st.sampled_from([0.0, 1000.0]),
)
def test_the_nearest_is_a_brute_force_search_s_to_the_last_bit(seed, rows, dimension, scale, spread, outlier):
    keys = close_lying(seed, rows + 4, dimension, scale, spread)
    keys[:, 0] += outlier * scale  # one dimension that drowns the others, as in a model's hidden states
    index = ClusterIndex(dimension, 0.1, clusters=[Cluster(i, k, 0.1, PARIS, (i,)) for i, k in enumerate(keys[:rows])],
                         keys=dict(enumerate(keys[:rows])))  # fmt: skip
    for asked in (keys[rows : rows + 1], keys[rows:], keys[:2]):
        match = index.lookup(asked)
        assert match and (match.distance, match.cluster) == nearest_by_hand(index, asked)


SIGNS = torch.tensor([1.0, -1.0] * 32)
MISLEADING = {
    # what rounding takes from the query lies just along the nearer row, and is nothing to the other
    "query": (
        torch.cat([key(0), SIGNS]),
        torch.cat([key(16 / 63), SIGNS.abs()]),
        torch.cat([key(63), 0.49 * SIGNS]),
    ),
    # what rounding takes from the nearer row lies just along the query
    "row": (
        torch.cat([key(63), 0.49 * SIGNS]),
        torch.cat([key(63), SIGNS[:16], torch.zeros(48)]),
        torch.cat([key(0), SIGNS]),
    ),
    # the difference to the other is lost in float32
    "float32": (key(0, 1), key(1, 0), key(-5.5e-8, 0)),
}


@pytest.mark.parametrize(("nearer", "other", "asked"), MISLEADING.values(), ids=MISLEADING)
def test_rounding_that_makes_another_row_look_nearer_does_not_mislead(nearer, other, asked):
    for first, second, expected in ((nearer, other, 0), (other, nearer, 1)):
        index = ClusterIndex(len(asked), 0.1)
        index.insert(0, first, PARIS)
        index.insert(1, second, PARIS)
        match = index.lookup(asked[None])
        assert match and match.point == expected
        assert match.distance == pytest.approx(torch.dist(asked.double(), nearer.double()).item(), rel=1e-14)


def test_a_lookup_depends_on_nothing_that_is_asked_beside_it():
    keys = close_lying(1, 500, 384, 1.0, 0.01)
    index = ClusterIndex(384, 0.1)
    for point, k in enumerate(keys[:400]):
        index.insert(point, k, PARIS)
    alone = [index.lookup(k[None]) for k in keys[400:]]
    together = [index.lookup(torch.stack([k, k + 100.0])) for k in keys[400:]]
    assert together == alone


def test_a_search_goes_on_beyond_the_rows_that_fit_a_cache():
    keys = close_lying(2, CACHED_ROWS + 300, 16, 1.0, 0.1)
    clusters = [Cluster(i, k, 0.1, PARIS, (i,)) for i, k in enumerate(keys[:-10])]
    loaded = ClusterIndex(16, 0.1, clusters=clusters, keys=dict(enumerate(keys)))
    for asked in keys[-10:]:
        distances = torch.tensor([torch.dist(asked.double(), k.double()) for k in keys[:-10]])
        for query_keys in (asked[None], torch.stack([asked, asked + 100.0])):
            match = loaded.lookup(query_keys)
            assert match and match.cluster == distances.argmin().item()
