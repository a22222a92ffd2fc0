"""Digests: what they depend on, and what they do not."""

import math
import struct
from datetime import UTC, datetime
from hashlib import shake_256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.audit.chain import hashed_fields
from registry.base.digests import (
    Foundation,
    MemberContent,
    canonical_json,
    cluster_digest,
    cluster_element,
    content_digest,
    edit_digest,
    edit_element,
    event_hash,
    float32_bytes,
    prompt_key,
    received_vector,
)
from registry.base.multiset import Multiset
from registry.tables.audit import AuditEvent

MEMBER = MemberContent(key=b"\0" * 8, edit_digest="e" * 64, role="prompt", block_sha256="b" * 64)
CLUSTER = {"centre": b"\0" * 8, "radius": 0.8, "label": [1, 2], "members": [MEMBER]}
BASE = Foundation("m" * 64, {"lr": 0.01}, "n" * 64, None)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_float32_values_enter_digests_by_their_bits_and_arrive_from_pgvector_by_them(numbers):
    assert float32_bytes(numbers) == struct.pack(f"<{len(numbers)}f", *numbers)
    assert received_vector(struct.pack(f">hh{len(numbers)}f", len(numbers), 0, *numbers)).tolist() == numbers


@pytest.mark.parametrize(
    "change",
    [
        {"centre": b"\1" + b"\0" * 7},
        {"radius": 0.8000000000000002},
        {"label": [2, 1]},
        {"members": []},
        {"members": [MEMBER, MEMBER]},
        {"members": [MemberContent(b"\1" * 8, MEMBER.edit_digest, "prompt", MEMBER.block_sha256)]},
        {"members": [MemberContent(MEMBER.key, "f" * 64, "prompt", MEMBER.block_sha256)]},
        {"members": [MemberContent(MEMBER.key, MEMBER.edit_digest, "rephrase", MEMBER.block_sha256)]},
        {"members": [MemberContent(MEMBER.key, MEMBER.edit_digest, "prompt", "c" * 64)]},
    ],
)
def test_a_clusters_digest_depends_on_each_part_of_it(change):
    assert cluster_digest(**(CLUSTER | change)) != cluster_digest(**CLUSTER)


def version_digest(clusters, edits, foundation=BASE):
    elements = [*map(cluster_element, clusters), *map(edit_element, edits)]
    return content_digest(foundation, Multiset.of(elements))


def test_a_versions_digest_depends_on_its_foundation_clusters_and_edits():
    digests = {
        version_digest(["a"], ["e"]),
        version_digest(["a", "b"], ["e"]),
        version_digest(["a"], []),
        version_digest([], ["a", "e"]),
        version_digest(["e"], ["a"]),
        version_digest(["a"], ["e"], Foundation("x" * 64, {"lr": 0.01}, "n" * 64, None)),
        version_digest(["a"], ["e"], Foundation("m" * 64, {"lr": 0.02}, "n" * 64, None)),
        version_digest(["a"], ["e"], Foundation("m" * 64, {"lr": 0.01}, None, None)),
        version_digest(["a"], ["e"], Foundation("m" * 64, {"lr": 0.01}, "n" * 64, "c" * 64)),
    }
    assert len(digests) == 9


@given(st.lists(st.text(max_size=4)), st.lists(st.text(max_size=4)), st.randoms())
def test_a_set_brought_up_to_date_is_the_set_from_scratch(kept, others, rng):
    mixed = [*kept, *others]
    rng.shuffle(mixed)
    whole = Multiset.of(mixed)
    assert Multiset.of(kept).changed(out=[], into=others) == whole
    assert whole.changed(out=others, into=[]) == Multiset.of(kept)
    assert Multiset.from_bytes(bytes(whole)) == whole
    assert len(bytes(whole)) == 384
    # A multiset: the same element once more is another state, and so is one too few.
    assert whole.changed(out=[], into=["x"]) != whole


def test_products_are_those_of_plain_arithmetic():
    elements = [f"element {n}" for n in range(20)]
    numbers = [int.from_bytes(shake_256(each.encode()).digest(384)) for each in elements]
    assert Multiset.of(elements).state == math.prod(numbers) % (2**3072 - 1103717)


def test_prompts_have_one_key_where_they_differ_in_unicode_composition_and_outer_space_alone():
    assert prompt_key("Where is Zürich?\n", "qa") == prompt_key(" Where is Zu\u0308rich?", "qa")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is Zürich?", "Where is Zurich?"),
        ("Who is who?", "Who is WHO?"),
        ("if x:\n  return 1\n", "if x:\n    return 1\n"),
        ("a b", "a\u00a0b"),
        ("What is 2²?", "What is 22?"),
        ("H₂O", "H2O"),
        ("ﬁle", "file"),
        ("½", "1⁄2"),
        ("ａ", "a"),
    ],
)
def test_case_inner_space_and_compatibility_forms_are_differences_of_prompts(one, other):
    assert prompt_key(one, "qa") != prompt_key(other, "qa")


def test_the_same_prompt_of_another_kind_is_another():
    assert prompt_key("The CEO is", "qa") != prompt_key("The CEO is", "completion")


def test_an_edits_digest_tells_its_lists_apart():
    def digest(rephrases, unchanged, alternatives=()):
        return edit_digest(
            prompt="p", target="t", alternatives=alternatives, rephrases=rephrases, unchanged=unchanged, kind="qa"
        )

    assert (
        len({digest(["a"], []), digest([], ["a"]), digest(["a", "b"], []), digest(["ab"], []), digest([], [], ["a"])})
        == 5
    )


EVENT = AuditEvent(
    seq=2, at=datetime(2026, 11, 21, 8, 30, tzinfo=UTC), actor="ada", role="admin", action="collection:batch:submit",
    collection_id=1, subject="batch/1", before=None, after="e" * 64, reason="Zürich", request_id=None,
    details={"edits": 1}, previous_hash="0" * 64,
)  # fmt: skip


def test_digests_stay_what_they_are():
    # Stored digests are compared with these functions for ever: a change here needs another format number.
    lists = {"alternatives": ["Zurich"], "rephrases": ["Wo denn?"], "unchanged": []}
    assert edit_digest(prompt="Wo?", target="Zürich", kind="qa", **lists) == (
        "3f2e45b5f4d1d6ee02c78f37246d46ba32a02d9fe49f639d0ecc9da78e09efb6"
    )
    assert cluster_digest(**CLUSTER) == "8261449489a467195f1211942331f2f29a3c7955f6687b855ba76e5973c0dade"
    assert version_digest(["a"], ["e"]) == "2e25a9d43018cdb1b2f3f02a04c21f1de4f8d64f72396da022dc14266e0caacf"
    assert event_hash(hashed_fields(EVENT)) == ("d58e0db142da5b886b13dcb1e209cd30f3c5017ec176e6204d6e81a6ee85cd94")


def test_floats_have_no_canonical_json():
    with pytest.raises(TypeError):
        canonical_json({"a": [1.0]})
