"""Calibration: whitening, metric and radius from a deployment's own questions, and the trade-off of each radius."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from melo_core.encoder import KeyEncoder, Whitening
from melo_core.errors import MeloError
from melo_core.metric import learn_metric

SHOWN_RADII = tuple(r / 100 for r in range(50, 125, 5))  # of whitened keys
SHOWN_PARTS = tuple(r / 100 for r in range(50, 160, 10))  # of the suggested radius, where keys are not whitened
FEWEST_QUESTIONS = 100  # fewer say too little about 384 dimensions, and nothing about a rate of 1 %
FEWEST_PAIRS = 40  # for a metric: a quarter of them is held out
HELD_OUT = 4  # with a metric, every fourth prompt is used for measuring and not for learning
UNRELATED, LOOKALIKES, NEGATIVES = "unrelated", "lookalikes", "negatives"


@dataclass(frozen=True)
class Rephrased:
    """A prompt and its rephrases."""

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

    whitening: Whitening | None  # None: keys stay as the encoder returns them
    radius: float
    edits: int  # prompts that the questions were compared with: more of them wrongly cover more
    questions: dict[str, int]  # number of questions in each set
    rephrases: int
    reaches: tuple[Reach, ...]  # by radius, including the suggested one

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
    """Fit the whitening on ordinary questions, then choose the radius.

    The pairs' prompts stand for edits. At most `false_rate` of any set may be covered by an edit: of the questions
    (`unrelated`), of the pairs' other prompts (`lookalikes`), and of the given `negatives`. Without pairs, each
    question in turn stands for an edit and must not cover the others.

    whitened: if False, keys and radius stay in the encoder's own units.
    metric: also learn a metric from the pairs, and measure it on a quarter of them that is held out.
    on_progress: called with the number of texts encoded and their total. Raises MeloError.
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
    """Return all pairs, or with a metric only those that are held out."""
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
        """Return a text's key, (d,)."""
        return self._keys[text]

    def of_query(self, text: str) -> Tensor:
        """Return a query's keys, (1 to 4, d)."""
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
    """Find the edit nearest to each query by any of its keys; return distances (q,) and edit numbers (q,).

    besides_itself: query i is edit i asked again, so edit i is left out.
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
    """Return each rephrase's distance to its own prompt, infinite where another is nearer; None without pairs."""
    if not pairs:
        return None
    asked = [(i, text) for i, pair in enumerate(pairs) for text in pair.rephrases]
    distances, numbers = _nearest(keys_of(text for _, text in asked), edits)
    return distances.where(numbers == torch.tensor([i for i, _ in asked]), torch.inf)


def _greatest_radius(name: str, distances: Tensor, false_rate: float) -> float:
    """Return the greatest radius within which at most `false_rate` of the distances lie.

    Rounded down to a thousandth, or to three digits for smaller values.
    """
    allowed = int(false_rate * len(distances))
    first_outside = float(distances.sort().values[allowed])
    steps = 1000.0  # per unit; more where all distances are small
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
