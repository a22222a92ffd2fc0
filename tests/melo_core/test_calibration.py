"""Calibration with the real sentence encoder, on questions written for these tests."""

import pytest
import torch

from melo_core.calibration import Calibration, Rephrased, calibrate
from melo_core.encoder import SentenceEncoder, Whitening, ordinary_questions
from melo_core.errors import MeloError
from melo_core.index import ClusterIndex
from tests.melo_core.conftest import FOLDER

QUESTIONS = ordinary_questions()[:150]
COMPANIES = [
    "Brenwick",
    "Tarrant",
    "Ostley",
    "Calder",
    "Mirefield",
    "Pelham",
    "Quarrington",
    "Sundby",
    "Thornave",
    "Ulverdale",
    "Vexholm",
    "Wyncote",
]
FORMS = [
    ("Who is the chief executive of {}?", "Which person runs {} as its CEO?", "{} is led by which chief executive?"),
    ("Where does {} have its head office?", "In which city are {}'s headquarters?", "The head office of {} is where?"),
    ("What does {} produce?", "Which products does {} make?", "{} is a maker of what?"),
    ("When was {} founded?", "In what year did {} start?", "What is the founding year of {}?"),
]
PAIRS = [Rephrased(a.format(c), (b.format(c), d.format(c))) for c in COMPANIES for a, b, d in FORMS]
NEGATIVES = [f"How many people work for {company}?" for company in COMPANIES]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder.load(FOLDER)


@pytest.fixture(scope="module")
def plain(encoder) -> Calibration:
    return calibrate(encoder, QUESTIONS, PAIRS, NEGATIVES, epsilon=0.01, false_rate=0.1)


@pytest.fixture(scope="module")
def learned(encoder) -> Calibration:
    return calibrate(encoder, QUESTIONS, PAIRS, epsilon=0.01, false_rate=0.1, metric=True)


def test_the_suggested_radius_keeps_to_the_rate_in_every_set_and_a_greater_one_would_not(encoder, plain):
    assert set(plain.questions) == {"unrelated", "lookalikes", "negatives"}
    assert max(plain.suggested.false.values()) <= 0.1
    encoder.whitening = plain.whitening
    index = ClusterIndex(encoder.dimension, plain.radius)
    for point, pair in enumerate(PAIRS):
        index.insert(point, encoder.key(pair.prompt), (point,))
    away = sorted(index.lookup(encoder.query_keys(text)).distance for text in NEGATIVES)
    within = sum(d <= plain.radius for d in away) / len(away)
    assert plain.suggested.false["negatives"] == pytest.approx(within)
    beyond = [reach for reach in plain.reaches if reach.radius > plain.radius + 0.05]
    assert beyond and all(max(reach.false.values()) > 0.1 for reach in beyond)


def test_recall_is_the_share_of_rephrases_that_the_index_routes_to_their_own_edit(encoder, plain):
    encoder.whitening = plain.whitening
    index = ClusterIndex(encoder.dimension, plain.radius)
    for point, pair in enumerate(PAIRS):
        index.insert(point, encoder.key(pair.prompt), (point,))
    asked = [(i, index.lookup(encoder.query_keys(text))) for i, pair in enumerate(PAIRS) for text in pair.rephrases]
    found = sum(match.covers and match.point == i for i, match in asked)
    assert plain.suggested.recall == pytest.approx(found / len(asked))
    assert plain.rephrases == len(asked)


def test_false_activation_and_recall_only_grow_with_the_radius(plain):
    for one, next_ in zip(plain.reaches, plain.reaches[1:], strict=False):
        assert one.radius < next_.radius and one.recall <= next_.recall
        assert all(one.false[name] <= next_.false[name] for name in one.false)


def test_without_a_metric_the_calibration_is_the_whitening_of_the_questions(encoder, plain):
    raw = torch.stack([encoder.raw_key(question) for question in QUESTIONS])
    assert plain.whitening.to_bytes() == Whitening.fit(raw, 0.01).to_bytes()


def test_a_learned_metric_brings_unseen_rephrases_nearer_than_their_lookalikes(encoder, plain, learned):
    held_out = PAIRS[::4]
    assert (learned.edits, learned.rephrases) == (len(held_out), 2 * len(held_out))

    def margin(whitening: Whitening) -> float:
        """How much nearer a rephrase lies to its own prompt than to the next, on average."""
        prompts = whitening(torch.stack([encoder.raw_key(pair.prompt) for pair in held_out]))
        asked = whitening(torch.stack([encoder.raw_key(pair.rephrases[0]) for pair in held_out]))
        away = torch.cdist(asked, prompts)
        own = away.diagonal().clone()
        return float((away.fill_diagonal_(9).amin(1) - own).mean())

    assert margin(learned.whitening) > margin(plain.whitening) + 0.02


def test_the_same_questions_give_the_same_calibration(encoder, learned):
    again = calibrate(encoder, QUESTIONS, PAIRS, epsilon=0.01, false_rate=0.1, metric=True)
    assert again.whitening.to_bytes() == learned.whitening.to_bytes() and again.reaches == learned.reaches


def test_without_pairs_every_question_stands_for_an_edit_in_turn(encoder):
    found = calibrate(encoder, QUESTIONS, epsilon=0.01, false_rate=0.02)
    assert found.edits == found.questions["unrelated"] == len(QUESTIONS)
    assert found.suggested.recall is None and 0 < found.suggested.false["unrelated"] <= 0.02


def test_keys_that_are_not_whitened_get_a_radius_in_their_own_units_and_the_trade_off_around_it(encoder):
    found = calibrate(encoder, QUESTIONS, PAIRS, epsilon=0.01, false_rate=0.1, whitened=False)
    encoder.whitening = None
    index = ClusterIndex(encoder.dimension, found.radius)
    for point, pair in enumerate(PAIRS):
        index.insert(point, encoder.key(pair.prompt), (point,))
    within = sum(index.lookup(encoder.query_keys(q)).covers for q in QUESTIONS) / len(QUESTIONS)
    assert found.whitening is None and found.suggested.false["unrelated"] == pytest.approx(within)

    small = calibrate(
        _Shrunk(encoder.model, encoder.tokenizer), QUESTIONS, PAIRS, epsilon=0.01, false_rate=0.1, whitened=False
    )
    assert small.radius == pytest.approx(found.radius / 1e5, rel=0.02)
    assert [r.recall for r in small.reaches] == pytest.approx([r.recall for r in found.reaches], abs=0.02)
    assert small.reaches[0].recall < small.suggested.recall


class _Shrunk(SentenceEncoder):
    """Keys of another scale."""

    def raw_key(self, text: str, kind: str = "qa") -> torch.Tensor:
        return super().raw_key(text, kind) / 1e5


@pytest.mark.parametrize(
    ("questions", "pairs", "negatives", "rate", "metric", "said"),
    [
        (QUESTIONS[:99], [], [], 0.01, False, "99 different questions are too few"),
        (QUESTIONS, [], [], 0.0, False, "between 0 and 1"),
        (QUESTIONS, PAIRS[:5], [], 0.01, True, "too few for a metric"),
        (QUESTIONS, [Rephrased("Who?", ())], [], 0.01, False, "no rephrase"),
        (QUESTIONS, [PAIRS[0], PAIRS[0]], [], 0.01, False, "twice"),
        (QUESTIONS, PAIRS[:1], [], 0.01, False, "at least 2"),
        (QUESTIONS, PAIRS[:3], [PAIRS[0].prompt], 0.01, False, "word for word"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_with_the_reason(
    encoder, questions, pairs, negatives, rate, metric, said
):
    with pytest.raises(MeloError, match=said):
        calibrate(encoder, questions, pairs, negatives, epsilon=0.01, false_rate=rate, metric=metric)
