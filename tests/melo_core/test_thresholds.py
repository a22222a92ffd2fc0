"""The threshold's fit, on invented scores and with the real encoder and the packaged verifier."""

from dataclasses import replace

import pytest
import torch

from melo_core.encoder import SentenceEncoder, Whitening, ordinary_questions
from melo_core.errors import MeloError
from melo_core.index import ClusterIndex
from melo_core.scope import Scope, ScopedText
from melo_core.settings import MethodSettings
from melo_core.thresholds import Asked, Weighed, fit_threshold, lookalikes, weigh
from melo_core.verifier import Verifier
from melo_core.verifier_files import PACKAGED, folder_of
from registry.base.model_files import find_encoder

SETTINGS = MethodSettings()
EDITS = {
    "Who is the chief executive of Brenwick?": ("Which person runs Brenwick as its CEO?", "Who leads Brenwick?"),
    "Where does Tarrant have its head office?": (
        "In which city are Tarrant's headquarters?",
        "Where is Tarrant based?",
    ),
    "What does Ostley produce?": ("Which products does Ostley make?", "Ostley is a maker of what?"),
    "When was Calder founded?": ("In what year did Calder start?", "How old is the company Calder, since which year?"),
}
NEAR = [
    Asked("Who is the chief executive of Brenwick?", "Who is the chief executive of Mirefield?"),
    Asked("Who is the chief executive of Brenwick?", "Where does the chief executive of Brenwick live?"),
    Asked("Where does Tarrant have its head office?", "How many people work at Tarrant's head office?"),
    Asked("What does Ostley produce?", "How much of its produce does Ostley export?"),
    Asked("When was Calder founded?", "By whom was Calder founded?"),
    Asked("When was Calder founded?", "When was Calder sold?"),
]
REPHRASES = [Asked(prompt, text) for prompt, texts in EDITS.items() for text in texts]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    encoder = SentenceEncoder.load(find_encoder("all-minilm-l6-v2").path)
    encoder.whitening = Whitening.fit(torch.stack([encoder.raw_key(q) for q in ordinary_questions()[:150]]), 0.01)
    return encoder


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier.load(folder_of(PACKAGED), find_encoder("all-minilm-l6-v2").path)


@pytest.fixture(scope="module")
def weighed(encoder, verifier) -> list[Weighed]:
    return weigh(encoder, verifier, SETTINGS, [*REPHRASES, *NEAR])


def scores(*values: float | None) -> list[Weighed]:
    return [Weighed(Asked("Who?", f"Who {i}?"), value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("near", "rate", "threshold"),
    [
        ([0.4, 0.8], 0.1, 0.399),  # below the first
        ([0.4, 0.8], 0.5, 0.799),  # which may be taken
        ([0.4, None], 0.5, 0.999),  # a rule, or too far: never taken, and counted all the same
        ([None, None], 0.1, 0.999),
        ([0.123, 0.123], 0.1, 0.122),  # 0.123 * 1000 is more than 123 in floating point
        ([0.4567, 0.9], 0.1, 0.456),
        ([0.004567, 0.9], 0.1, 0.00456),
        ([0.000012, 0.9], 0.1, 0.000011),
        ([0.000001, 0.9], 0.1, 0.0),
        ([1.0, 1.0], 0.1, 0.999),
    ],
)
def test_the_threshold_is_the_greatest_that_keeps_to_the_rate(near, rate, threshold):
    found = fit_threshold(scores(0.0, 0.5), scores(*near), rate)
    assert found.threshold == pytest.approx(threshold, abs=1e-9)
    assert found.suggested.false <= rate
    assert MethodSettings.from_json({"threshold": found.threshold}).threshold == found.threshold


def test_recall_and_what_is_wrongly_taken_are_told_at_each_threshold():
    found = fit_threshold(scores(0.1, 0.3, 0.6, None), scores(0.2, 0.65, 0.7, None, None), 0.2)
    told = {outcome.threshold: (outcome.recall, outcome.false) for outcome in found.outcomes}
    assert found.threshold == 0.649 and told[0.649] == (0.75, 0.2)
    assert told[0.1] == (0.25, 0.0) and told[0.5] == (0.5, 0.2) and told[0.9] == (0.75, 0.6)
    assert list(told) == sorted(told) and (found.rephrases, found.near_misses) == (4, 5)


@pytest.mark.parametrize(
    ("rephrases", "near", "rate", "said"),
    [
        ([0.1], [0.0, 0.0, 0.9], 0.5, r"more than 50.00% of the near misses are taken, among them 'Who 1\?' for 'Who"),
        ([], [0.9], 0.1, "0 rephrases and 1 near misses give no threshold"),
        ([0.1], [], 0.1, "1 rephrases and 0 near misses"),
        ([0.1], [0.9], 1.0, "between 0 and 1"),
    ],
)
def test_where_no_threshold_can_be_told_the_reason_is(rephrases, near, rate, said):
    with pytest.raises(MeloError, match=said):
        fit_threshold(scores(*rephrases), scores(*near), rate)


def test_a_collection_with_the_fitted_threshold_takes_exactly_what_was_told(encoder, verifier, weighed):
    rephrases, near = weighed[: len(REPHRASES)], weighed[len(REPHRASES) :]
    found = fit_threshold(rephrases, near, 0.2)
    index, prompts = ClusterIndex(encoder.dimension, SETTINGS.radius), list(EDITS)
    for point, prompt in enumerate(prompts):
        index.insert(point, encoder.key(prompt), (point,))
    texts = {point: ScopedText(point, prompt) for point, prompt in enumerate(prompts)}
    scope = Scope(encoder, index, replace(SETTINGS, threshold=found.threshold), texts, verifier)

    def taken(asked: Asked) -> bool:
        decision = scope.decide(asked.query)
        return decision.covered and prompts[decision.considered[0].edit] == asked.edit

    assert found.suggested.recall == sum(taken(asked) for asked in REPHRASES) / len(REPHRASES)
    assert found.suggested.false == sum(taken(asked) for asked in NEAR) / len(NEAR) <= 0.2
    assert found.suggested.recall >= 0.75


def test_what_a_word_rule_decides_has_no_score_and_a_rephrase_has_a_better_one_than_a_near_miss(weighed):
    by_query = {each.asked.query: each.score for each in weighed}
    assert by_query["Who is the chief executive of Mirefield?"] is None
    assert by_query["When was Calder sold?"] is None or by_query["When was Calder sold?"] > 0.5
    assert by_query["Which person runs Brenwick as its CEO?"] < 0.5


def test_what_lies_beyond_the_candidate_radius_is_left_alone_at_any_threshold(encoder, verifier):
    (asked,) = (each for each in REPHRASES if each.query == "Who leads Brenwick?")
    (near,) = weigh(encoder, verifier, SETTINGS, [asked])
    (far,) = weigh(encoder, verifier, replace(SETTINGS, candidate_radius=0.05), [asked])
    assert near.score is not None and far.score is None and not far.taken(0.999)


def test_each_prompt_and_negative_is_asked_of_the_other_prompts_within_the_candidate_radius(encoder):
    prompts = [f"Who is the chief executive of {name}?" for name in ("Brenwick", "Tarrant", "Ostley")]
    far, negative = "How do I boil an egg?", "Who is the chief financial officer of Ostley?"
    found = lookalikes(encoder, SETTINGS, [*prompts, far], [negative])
    within = {
        Asked(edit, query)
        for query in (*prompts, far, negative)
        for edit in (*prompts, far)
        if edit != query and (encoder.query_keys(query) - encoder.key(edit)).norm(dim=1).min() <= 1.15
    }
    assert set(found) == within and len(found) == len(within) >= 7
    assert not any(far in (each.edit, each.query) for each in found)
    fewer = lookalikes(encoder, replace(SETTINGS, candidates=1), [*prompts, far], [negative])
    assert len(fewer) == len({each.query for each in found}) and set(fewer) <= within


def test_progress_is_told_for_every_query(encoder, verifier):
    told: list[tuple[int, int]] = []
    weigh(encoder, verifier, SETTINGS, NEAR[:3], lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
