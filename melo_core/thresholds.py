"""The verifier's threshold for a false-activation rate, and the trade-off of each threshold."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from melo_core.encoder import KeyEncoder
from melo_core.errors import MeloError
from melo_core.index import ClusterIndex
from melo_core.scope import Scope, ScopedText
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier

SHOWN_THRESHOLDS = (0.01, 0.05, *(t / 10 for t in range(1, 10)), 0.95, 0.99)


@dataclass(frozen=True)
class Asked:
    """A query, and the edit's prompt that it is compared with."""

    edit: str
    query: str


@dataclass(frozen=True)
class Weighed:
    """The method's judgement of a query beside one edit."""

    asked: Asked
    score: float | None  # None: never taken at any threshold, since the query lies too far away or a word rule decides

    def taken(self, threshold: float) -> bool:
        return self.score is not None and self.score <= threshold


@dataclass(frozen=True)
class Outcome:
    """What edits with one threshold take."""

    threshold: float
    recall: float  # share of rephrases that their edit takes
    false: float  # share of near misses that their edit takes


@dataclass(frozen=True)
class Threshold:
    """The greatest threshold that keeps to the false-activation rate, and the trade-off around it."""

    threshold: float
    rephrases: int
    near_misses: int
    outcomes: tuple[Outcome, ...]  # by threshold, including the suggested one

    @property
    def suggested(self) -> Outcome:
        return next(outcome for outcome in self.outcomes if outcome.threshold == self.threshold)


def fit_threshold(rephrases: Sequence[Weighed], near_misses: Sequence[Weighed], false_rate: float) -> Threshold:
    """Choose the greatest threshold at which at most `false_rate` of the near misses are taken.

    Raises MeloError where there is nothing to choose by, or no threshold keeps to the rate.
    """
    if not 0 < false_rate < 1:
        raise MeloError(f"the false-activation rate must lie between 0 and 1, not at {false_rate}; 0.01 is one in 100")
    if not rephrases or not near_misses:
        raise MeloError(f"{len(rephrases)} rephrases and {len(near_misses)} near misses give no threshold; both count")
    threshold = _greatest_threshold(near_misses, false_rate)
    shown = sorted({*SHOWN_THRESHOLDS, threshold})
    outcomes = tuple(Outcome(t, _share(rephrases, t), _share(near_misses, t)) for t in shown)
    return Threshold(threshold, len(rephrases), len(near_misses), outcomes)


def lookalikes(
    encoder: KeyEncoder, settings: MethodSettings, prompts: Sequence[str], negatives: Iterable[str] = ()
) -> list[Asked]:
    """Pair each prompt and negative, as a query, with the other prompts that are candidates for it.

    encoder: whitened as the collection's is. Pairs at most as many candidates as the verifier reads, nearest first.
    """
    index = ClusterIndex(encoder.dimension, settings.radius)
    for number, prompt in enumerate(prompts):
        index.insert(number, encoder.key(prompt), (number,))
    found = []
    for query in dict.fromkeys((*prompts, *negatives)):
        within = index.within(encoder.query_keys(query), settings.candidate_radius)
        near = dict.fromkeys(prompts[match.point] for match, _ in within)  # once, whichever of its keys is near
        near.pop(query, None)
        found += [Asked(prompt, query) for prompt in list(near)[: settings.candidates]]
    return found


def weigh(
    encoder: KeyEncoder,
    verifier: Verifier,
    settings: MethodSettings,
    asked: Sequence[Asked],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Weighed]:
    """Let the scope of one edit decide on each query, as in a collection: candidate, word rules, verifier.

    encoder: whitened as the collection's is. on_progress: called with the number read and the total.
    """
    scopes: dict[str, Scope] = {}
    weighed = []
    for each in asked:
        if each.edit not in scopes:
            scopes[each.edit] = _scope(encoder, verifier, settings, each.edit)
        considered = scopes[each.edit].decide(each.query).considered
        weighed.append(Weighed(each, considered[0].score if considered else None))
        if on_progress:
            on_progress(len(weighed), len(asked))
    return weighed


def _scope(encoder: KeyEncoder, verifier: Verifier, settings: MethodSettings, prompt: str) -> Scope:
    index = ClusterIndex(encoder.dimension, settings.radius)
    index.insert(0, encoder.key(prompt), (0,))
    return Scope(encoder, index, settings, {0: ScopedText(0, prompt)}, verifier)


def _greatest_threshold(near_misses: Sequence[Weighed], false_rate: float) -> float:
    """Return the greatest threshold below 1, rounded down to a thousandth, or to three digits for smaller values."""
    scores = sorted((math.inf if each.score is None else each.score, i) for i, each in enumerate(near_misses))
    first_outside, i = scores[int(false_rate * len(scores))]
    if first_outside <= 0:
        asked = near_misses[i].asked
        raise MeloError(
            f"at any threshold more than {false_rate:.2%} of the near misses are taken, among them "
            f"{asked.query[:60]!r} for {asked.edit[:60]!r}; remove those that ask the same, or allow a greater rate"
        )
    steps = 1000  # per unit; scores have six digits
    while first_outside * steps < 100 and steps < 1_000_000:
        steps *= 10
    return (math.ceil(round(min(first_outside, 1.0) * steps, 6)) - 1) / steps  # rounded, as 0.123 * 1000 > 123


def _share(weighed: Sequence[Weighed], threshold: float) -> float:
    return sum(each.taken(threshold) for each in weighed) / len(weighed)
