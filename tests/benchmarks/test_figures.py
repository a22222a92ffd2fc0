"""Shares, their intervals, and what counts as the target."""

import pytest

from benchmarks.edits.figures import Share, contains, matches


def test_wilsons_interval_is_that_of_the_textbook():
    low, high = Share(8, 10).interval
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_a_perfect_share_is_not_certain():
    low, high = Share(200, 200).interval
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(0.9812, abs=1e-4)


def test_nothing_asked_is_no_share():
    assert Share.of([]).value is None and Share.of([]).interval is None


@pytest.mark.parametrize("answer", ["New York", "new york.", " New  York!"])
def test_case_punctuation_and_spaces_do_not_matter(answer):
    assert matches(answer, "New York")


@pytest.mark.parametrize("answer", ["New York City", "York", "", "Нью-Йорк"])
def test_more_less_or_other_words_are_no_match(answer):
    assert not matches(answer, "New York")


def test_a_sentence_contains_the_target_only_as_whole_words():
    assert contains("He was born on January 19, 1949.", "1949")
    assert not contains("The continent is Antarctica.", "Antar")
    assert not contains("Anything.", "?")
