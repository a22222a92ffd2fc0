"""Whitening, metric and radius from a deployment's own questions, and what each radius costs and finds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from melo_core.encoder import KeyEncoder, Whitening
from melo_core.errors import MeloError
from melo_core.metric import learn_metric

SHOWN_RADII = tuple(r / 100 for r in range(50, 125, 5))  # of whitened keys
SHOWN_PARTS = tuple(r / 100 for r in range(50, 160, 10))  # of the suggested radius, where keys have their own scale
FEWEST_QUESTIONS = 100  # fewer say too little about 384 dimensions, and nothing about 1 %
FEWEST_PAIRS = 40  # for a metric: a quarter of them is held out
HELD_OUT = 4  # with a metric, every fourth prompt is measured on and not learned from
UNRELATED, LOOKALIKES, NEGATIVES = "unrelated", "lookalikes", "negatives"


@dataclass(frozen=True)
class Rephrased:
    """A prompt, and the same in other words."""

    prompt: str
    rephrases: tuple[str, ...]


@dataclass(frozen=True)
class Reach:
    """What edits with one radius cover."""

    radius: float
    false: dict[str, float]  # share of each set of questions that an edit wrongly covers
    recall: float | None  # share of rephrases that their own edit covers; None without rephrases


@dataclass(frozen=True)
class Calibration:
    """A whitening, the greatest radius that keeps to the false-activation rate, and the trade-off around it."""

    whitening: Whitening | None  # None: keys stay as the encoder gives them
    radius: float
    edits: int  # prompts that the questions were held against: with more, more is covered wrongly
    questions: dict[str, int]  # how many of each set
    rephrases: int
    reaches: tuple[Reach, ...]  # by radius, the suggested one among them

    @property
    def suggested(self) -> Reach:
        return next(reach for reach in self.reaches if reach.radius == self.radius)


def calibrate(
    encoder: KeyEncoder,
    questions: Iterable[str],
    pairs: Sequence[Rephrased] = (),
    negatives: Iterable[str] = (),
    *,
    epsilon: float,
    false_rate: float,
    whitened: bool = True,
    metric: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Fit on ordinary questions, then choose the radius.

    The pairs' prompts stand for edits. No more than `false_rate` of any set may be covered by an edit: of the questions
    (`unrelated`), of the pairs' other prompts (`lookalikes`), of the given `negatives`. Without pairs each
    question stands for an edit in turn, and the others for what it must not cover.

    whitened: else keys stay in the encoder's own units, and so is the radius.
    metric: also learn a metric from the pairs; it is then measured on a quarter of them that it has not seen.
    on_progress: gets how many of how many texts are encoded. Raises MeloError.
    """
    asked, avoided = list(dict.fromkeys(questions)), list(dict.fromkeys(negatives))
    _require_enough(asked, pairs, false_rate, metric)
    if metric and not whitened:
        raise MeloError("a metric is learned on whitened keys; leave it out, or whiten them")
    raw = _Keys(
        encoder, [*asked, *avoided, *(t for pair in pairs for t in (pair.prompt, *pair.rephrases))], on_progress
    )
    whitening = Whitening.fit(torch.stack([raw.of(question) for question in asked]), epsilon) if whitened else None
    learned = [pair for i, pair in enumerate(pairs) if i % HELD_OUT] if metric else []
    measured = measured_on(pairs, metric)
    if metric and whitening is not None:
        prompts = whitening(torch.stack([raw.of(pair.prompt) for pair in learned]))
        rephrases = [whitening(torch.cat([raw.of_query(text) for text in pair.rephrases])) for pair in learned]
        unrelated = whitening(torch.stack([raw.of(question) for question in asked]))
        whitening = replace(whitening, metric=learn_metric(prompts, rephrases, unrelated, seed=0))

    def scaled(keys: Tensor) -> Tensor:
        return keys if whitening is None else whitening(keys)

    def keys_of(texts: Iterable[str]) -> list[Tensor]:
        return [scaled(raw.of_query(text)) for text in texts]

    edits = scaled(torch.stack([raw.of(text) for text in ([pair.prompt for pair in measured] or asked)]))

    away = {UNRELATED: _nearest(keys_of(asked), edits, besides_itself=not pairs)[0]}
    if pairs:
        away[LOOKALIKES] = _nearest(keys_of(pair.prompt for pair in measured), edits, besides_itself=True)[0]
    if avoided:
        away[NEGATIVES] = _nearest(keys_of(avoided), edits)[0]
    own = _own(measured, keys_of, edits)
    radius = min(_greatest_radius(name, distances, false_rate) for name, distances in away.items())
    shown = SHOWN_RADII if whitened else tuple(part * radius for part in SHOWN_PARTS)
    reaches = tuple(_reach(r, away, own) for r in sorted({*shown, radius}))
    counts = {name: len(distances) for name, distances in away.items()}
    return Calibration(whitening, radius, len(edits), counts, 0 if own is None else len(own), reaches)


def measured_on(pairs: Sequence[Rephrased], metric: bool) -> Sequence[Rephrased]:
    """All pairs, or those that a metric is not learned from."""
    return pairs[::HELD_OUT] if metric else pairs


class _Keys:
    """The raw keys of texts, each encoded once."""

    def __init__(self, encoder: KeyEncoder, texts: list[str], on_progress: Callable[[int, int], None] | None) -> None:
        self._query_texts = {text: encoder.query_texts(text) for text in texts}
        parts = list(dict.fromkeys(part for query in self._query_texts.values() for part in query))
        self._keys: dict[str, Tensor] = {}
        for part in parts:
            self._keys[part] = encoder.raw_key(part)
            if on_progress:
                on_progress(len(self._keys), len(parts))

    def of(self, text: str) -> Tensor:
        """(d,)"""
        return self._keys[text]

    def of_query(self, text: str) -> Tensor:
        """(1 or 2, d)"""
        return torch.stack([self._keys[part] for part in self._query_texts[text]])


def _require_enough(questions: list[str], pairs: Sequence[Rephrased], false_rate: float, metric: bool) -> None:
    if not 0 < false_rate < 1:
        raise MeloError(f"the false-activation rate must lie between 0 and 1, not at {false_rate}; 0.01 is one in 100")
    if len(questions) < FEWEST_QUESTIONS:
        raise MeloError(f"{len(questions)} different questions are too few; give at least {FEWEST_QUESTIONS}")
    if any(not pair.rephrases for pair in pairs):
        prompt = next(pair.prompt for pair in pairs if not pair.rephrases)
        raise MeloError(f"the prompt {prompt[:60]!r} has no rephrase; give one, or leave it out")
    if len({pair.prompt for pair in pairs}) < len(pairs):
        raise MeloError("a prompt stands in the pairs twice; give all its rephrases at once")
    if len(pairs) == 1:
        raise MeloError("a single pair has no lookalikes; give at least 2")
    if metric and len(pairs) < FEWEST_PAIRS:
        raise MeloError(f"{len(pairs)} prompts with rephrases are too few for a metric; give at least {FEWEST_PAIRS}")


def _nearest(queries: list[Tensor], edits: Tensor, besides_itself: bool = False) -> tuple[Tensor, Tensor]:
    """Distance (q,) to, and number (q,) of, the edit that is nearest to a query by any of its keys.

    besides_itself: query i is edit i asked again, and looks for another.
    """
    distances, numbers = [], []
    for i, keys in enumerate(queries):
        away = torch.cdist(keys, edits, compute_mode="donot_use_mm_for_euclid_dist").amin(0)
        if besides_itself:
            away[i] = torch.inf
        least, number = away.min(0)
        distances.append(least)
        numbers.append(number)
    return torch.stack(distances), torch.stack(numbers)


def _own(pairs: Sequence[Rephrased], keys_of: Callable[[Iterable[str]], list[Tensor]], edits: Tensor) -> Tensor | None:
    """Distance of each rephrase to its own prompt, infinite where another is nearer; None without pairs."""
    if not pairs:
        return None
    asked = [(i, text) for i, pair in enumerate(pairs) for text in pair.rephrases]
    distances, numbers = _nearest(keys_of(text for _, text in asked), edits)
    return distances.where(numbers == torch.tensor([i for i, _ in asked]), torch.inf)


def _greatest_radius(name: str, distances: Tensor, false_rate: float) -> float:
    """To a thousandth, or three digits if less: the greatest within which at most `false_rate` of these lie."""
    allowed = int(false_rate * len(distances))
    first_outside = float(distances.sort().values[allowed])
    steps = 1000.0  # in 1; more where all distances are small
    while 0 < first_outside * steps < 100:
        steps *= 10
    radius = (math.ceil(first_outside * steps) - 1) / steps
    if radius <= 0:
        raise MeloError(
            f"more than {false_rate:.2%} of the {name} questions are an edit's own prompt, word for word; remove them"
        )
    return radius


def _reach(radius: float, away: dict[str, Tensor], own: Tensor | None) -> Reach:
    false = {name: _share_within(distances, radius) for name, distances in away.items()}
    return Reach(radius, false, None if own is None else _share_within(own, radius))


def _share_within(distances: Tensor, radius: float) -> float:
    return int((distances <= radius).sum()) / len(distances)
