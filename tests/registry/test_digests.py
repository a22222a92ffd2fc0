"""Digests: what they depend on, and what they do not."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import (
    Foundation,
    MemberContent,
    canonical_json,
    cluster_digest,
    content_digest,
    edit_digest,
    float32_bytes,
    floats_of,
    prompt_key,
)

MEMBER = MemberContent(key=b"\0" * 8, edit_digest="e" * 64, role="prompt", block_sha256="b" * 64)
CLUSTER = {"centre": b"\0" * 8, "radius": 0.8, "label": [1, 2], "members": [MEMBER]}
BASE = Foundation("m" * 64, {"lr": 0.01}, "n" * 64, None)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_float32_values_survive_packing(numbers):
    packed = float32_bytes(numbers)
    assert floats_of(packed) == numbers
    assert packed == struct.pack(f"<{len(numbers)}f", *numbers)


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


def test_a_versions_digest_depends_on_its_foundation_clusters_and_edits():
    digests = {
        content_digest(BASE, ["a"], ["e"]),
        content_digest(BASE, ["a", "b"], ["e"]),
        content_digest(BASE, ["a"], []),
        content_digest(BASE, [], ["a", "e"]),
        content_digest(Foundation("x" * 64, {"lr": 0.01}, "n" * 64, None), ["a"], ["e"]),
        content_digest(Foundation("m" * 64, {"lr": 0.02}, "n" * 64, None), ["a"], ["e"]),
        content_digest(Foundation("m" * 64, {"lr": 0.01}, None, None), ["a"], ["e"]),
        content_digest(Foundation("m" * 64, {"lr": 0.01}, "n" * 64, "c" * 64), ["a"], ["e"]),
    }
    assert len(digests) == 8


def test_prompts_that_differ_in_case_space_or_unicode_form_only_have_one_key():
    assert prompt_key("Where is  Zürich?\n") == prompt_key("where is Zu\u0308rich?")
    assert prompt_key("Where is Zürich?") != prompt_key("Where is Zurich?")


def test_an_edits_digest_tells_its_lists_apart():
    def digest(rephrases, unchanged):
        return edit_digest(prompt="p", target="t", rephrases=rephrases, unchanged=unchanged, kind="qa")

    assert len({digest(["a"], []), digest([], ["a"]), digest(["a", "b"], []), digest(["ab"], [])}) == 4


def test_the_digests_of_this_release_stay_what_they_are():
    # Stored digests are compared with these functions for ever: a change here needs a new FORMAT.
    assert edit_digest(prompt="Wo?", target="Zürich", rephrases=["Wo denn?"], unchanged=[], kind="qa") == (
        "abd7850e42dd956e1faeafd5c1122b146530790ef82329203de947e12d9f35e0"
    )
    assert cluster_digest(**CLUSTER) == "3035286b8d8cac0d4e23f5c482123b7b8a0f7cf34e94c96e1e3ce6d6377e5a3e"
    assert content_digest(BASE, ["a"], ["e"]) == "8255782b695094cc3c4de9c5e656ee36077dc239eea0f6e06ecbba09eb00417a"


def test_floats_have_no_canonical_json():
    with pytest.raises(TypeError):
        canonical_json({"a": [1.0]})
