"""Scope: finds the edit that covers a query, if any, by the index, then the verifier, the word rules and guards."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from melo_core.encoder import KeyEncoder
from melo_core.index import ClusterIndex, Match
from melo_core.instructions import without_instructions
from melo_core.rules import Difference, difference, other_name, spoken_words, unnamed
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier


@dataclass(frozen=True)
class ScopedText:
    """The text whose key is a point of the index."""

    edit: int
    text: str  # the edit's prompt, or one of its rephrases
    guards: tuple[str, ...] = ()  # prompts that the edit must leave to the base model
    is_rephrase: bool = False
    kind: str = "qa"  # the form in which a model gets it


@dataclass(frozen=True)
class Considered:
    """An edit that was considered for a query, with the reasons for and against it."""

    edit: int
    text: str  # the edit's nearest prompt or rephrase
    distance: float
    score: float | None = None  # probability that the query asks something else; None: no verifier read it
    difference: Difference | None = None  # the word rule that decides against it
    guard: str | None = None  # the edit's guard that the query is nearer to
    guard_score: float | None = None
    covers: bool = False  # whether the edit covers the query, unless a better one does


@dataclass(frozen=True)
class Decision:
    """The point whose edit covers a query (None: no edit does), and the reasons."""

    match: Match | None  # the covering point, else the nearest one
    covered: bool
    considered: tuple[Considered, ...] = ()  # best first
    reading: str | None = None  # the text that decided, where it is not the one query itself


NOTHING = Decision(None, False)
END = " ?.!:;…"  # end of a question, which carries no meaning
FAR = 0.75  # of the candidate radius: beyond it, a text lies so far away that little speaks for the same question
FAR_SHARE = 0.3  # of the threshold that is left at the candidate radius
COMMON = 0.05  # share of a collection's edits; a name that this many have goes without saying


@dataclass
class Scope:
    """An index with the texts behind its points, and the rules that decide between them.

    verifier: None where the nearest edit covers any query within its radius. Every decision depends on the query alone,
    never on others asked with it.
    """

    encoder: KeyEncoder
    index: ClusterIndex
    settings: MethodSettings
    texts: Mapping[int, ScopedText]  # by point
    verifier: Verifier | None = None
    _guard_keys: dict[str, Tensor] = field(default_factory=dict, init=False)

    def decide(self, query: str | Sequence[str], kind: str = "qa") -> Decision:
        """Find the edit that covers a query.

        query: a text, or the ways to read a question: the reading counts that is most surely an edit's question, and
        none for an edit whose guard another reading is nearer to. What a text says of the answer's form is left out in
        one more reading. Without a verifier the first alone is read. Raises PromptTooLong where keys are the base
        model's.
        """
        first, *others = [query] if isinstance(query, str) else query
        text = same_text(first)
        point = self._exact.get((text, kind), self._exact.get((text, "")))
        if point is not None:
            return self._equal(point)
        if self.verifier is None:
            parts = self._known_parts(first)
            return self._nearest(first, self._keys(parts, kind), kind) if parts else NOTHING
        asked = list(dict.fromkeys((first, *others)))
        readings = list(dict.fromkeys((*asked, *map(without_instructions, asked))))
        judged = [
            each
            for reading in readings
            for each in self._verified(reading, readings, kind, shortened=reading not in asked)
        ]
        return self._best(judged, query)

    def prepare(self) -> None:
        """Compute now what the first query would wait for."""
        _ = self._exact, self._words

    @cached_property
    def _words(self) -> Counter[str]:
        """How many of the texts have each word."""
        return Counter(word for text in self.texts.values() for word in spoken_words(text.text))

    @cached_property
    def _exact(self) -> dict[tuple[str, str], int]:
        """Points by text and kind, and by text with any kind (""): a point of the query's kind goes first.

        A prompt takes precedence over another edit's rephrase, then its content decides as for keys. Among edits whose
        contents are not known, a later one takes precedence over an earlier one.
        """
        found: dict[tuple[str, str], int] = {}
        for point, text in sorted(self.texts.items(), key=lambda item: self._precedence(*item)):
            for kind in (text.kind, ""):
                found.setdefault((same_text(text.text), kind), point)
        return found

    def _precedence(self, point: int, text: ScopedText) -> tuple[bool, str, int]:
        return text.is_rephrase, self.index.content_of(point), -text.edit

    def _equal(self, point: int) -> Decision:
        text = self.texts[point]
        cluster = self.index.cluster_of(point)
        match = Match(cluster.number, point, 0.0, cluster.radius)
        score = None if self.verifier is None else 0.0
        return Decision(match, True, (Considered(text.edit, text.text, 0.0, score, covers=True),))

    def _nearest(self, query: str, keys: Sequence[Tensor], kind: str) -> Decision:
        """Decide without a verifier: take the nearest edit, unless one of its guards is nearer."""
        match = self.index.lookup(torch.stack(list(keys)))
        if match is None:
            return NOTHING
        text = self.texts[match.point]
        found = Considered(text.edit, text.text, match.distance, covers=match.covers)
        for guard in text.guards if match.covers else ():
            away = min(float((key - self._guard_key(guard, kind)).norm()) for key in keys)
            if away < match.distance or same_words(guard, query):
                found = replace(found, guard=guard, covers=False)
                break
        return Decision(match, found.covers, (found,))

    def _known_parts(self, query: str) -> list[str]:
        return [part for part in self.encoder.query_texts(query) if self.encoder.knows(part)]

    def _keys(self, parts: Sequence[str], kind: str) -> list[Tensor]:
        return [self.encoder.key(part, kind) for part in parts]

    def _verified(self, query: str, readings: Sequence[str], kind: str, *, shortened: bool) -> list["_Judged"]:
        """Judge the edits that lie near one reading of a query.

        shortened: of what it said of the answer's form, so an edit that says such a thing itself is none of it.
        """
        parts = self._known_parts(query)
        if not parts:
            return []
        reach = self.index.within(torch.stack(self._keys(parts, kind)), self.settings.candidate_radius)
        nearest: dict[int, Match] = {}
        by_parts: dict[int, list[str]] = {}
        for match, i in reach:
            edit, text = self.texts[match.point].edit, self.texts[match.point].text
            if edit not in nearest and len(nearest) == self.settings.candidates:
                continue
            if shortened and without_instructions(text) != text:
                continue
            nearest.setdefault(edit, match)
            by_parts.setdefault(edit, []).append(parts[i])
        return [
            _Judged(
                self._judge(query, readings, match, by_parts[edit]),
                match,
                query,
                is_of_kind=self.texts[match.point].kind == kind,
            )
            for edit, match in nearest.items()
        ]

    def _best(self, judged: Sequence["_Judged"], query: str | Sequence[str]) -> Decision:
        """Choose the edit that is most surely asked for, among those that no rule and no guard excludes."""
        guarded = {each.found.edit for each in judged if each.found.guard is not None}
        best: dict[int, _Judged] = {}
        for each in sorted(judged, key=lambda each: each.rank):
            if each.found.edit not in guarded or each.found.guard is not None:
                best.setdefault(each.found.edit, each)
        chosen = list(best.values())[: self.settings.candidates]
        if not chosen:
            return NOTHING
        first = chosen[0]
        reading = None if first.reading == query else first.reading
        return Decision(first.match, first.found.covers, tuple(each.found for each in chosen), reading)

    def _judge(self, query: str, readings: Sequence[str], match: Match, parts: Sequence[str]) -> Considered:
        """Judge one candidate.

        readings: all of the question's, of which query is one. parts: the parts of the query that lie near the edit.
        The rules compare those; the verifier reads the whole query.
        """
        assert self.verifier is not None
        text = self.texts[match.point]
        found = Considered(text.edit, text.text, match.distance)
        if not self.encoder.knows(text.text):
            return found
        if same_words(text.text, query):
            return self._guarded(replace(found, score=0.0, covers=True), query, readings, text.guards)
        differences = [self._difference(text.text, part) for part in dict.fromkeys(parts)]
        if None not in differences:
            return replace(found, difference=differences[0])
        away = match.distance / self.settings.candidate_radius
        if away > FAR and (missing := unnamed(text.text, query, self._is_common)):
            return replace(found, difference=missing)
        score = doubted(self.verifier.score(text.text, query), away)
        found = replace(found, score=score, covers=score <= self.settings.threshold)
        return self._guarded(found, query, readings, text.guards) if found.covers else found

    def _difference(self, text: str, part: str) -> Difference | None:
        assert self.verifier is not None
        return difference(text, part) or other_name(text, part, self.verifier.is_word, self._in_most_texts)

    def _in_most_texts(self, word: str) -> bool:
        return 2 * self._words[word] > len(self.texts)

    def _is_common(self, word: str) -> bool:
        """Whether so many of the texts have a word that a question about them need not say it."""
        return self._words[word] >= COMMON * len(self.texts)

    def _guarded(self, found: Considered, query: str, readings: Sequence[str], guards: Sequence[str]) -> Considered:
        """Reject a match whose query is nearer in meaning to a guard than to the edit, or has it as another reading."""
        assert self.verifier is not None and found.score is not None
        for guard in guards:
            equal = any(same_words(guard, reading) for reading in readings)
            if not equal and difference(guard, query) is not None:
                continue
            score = 0.0 if equal else self.verifier.score(guard, query)
            if score <= found.score:
                return replace(found, guard=guard, guard_score=score, covers=False)
        return found

    def _guard_key(self, guard: str, kind: str) -> Tensor:
        if guard not in self._guard_keys:
            self._guard_keys[guard] = self.encoder.key(guard, kind)
        return self._guard_keys[guard]


def doubted(score: float, away: float) -> float:
    """Raise the probability that a query asks something else by how far it lies from the edit's text.

    away: the distance, in candidate radii. A text that shares an edit's relation alone lies far from it.
    """
    kept = 1 - (1 - FAR_SHARE) * min(1.0, max(0.0, (away - FAR) / (1 - FAR)))
    return round(min(1.0, score / kept), 6)


@dataclass(frozen=True)
class _Judged:
    """A candidate, judged for one reading of a query."""

    found: Considered
    match: Match
    reading: str
    is_of_kind: bool  # whether the edit's text is asked in the form of the query

    @property
    def rank(self) -> tuple[bool, bool, float, bool, float]:
        found = self.found
        return (not found.covers, found.score is None, found.score or 0.0, not self.is_of_kind, found.distance)


def same_question(settings: MethodSettings, verifier: Verifier | None, edit: str, query: str) -> bool:
    """Tell whether verifier and rules take two texts for one question. Without a verifier, any two near texts are."""
    if verifier is None or same_words(edit, query):
        return True
    return difference(edit, query) is None and verifier.score(edit, query) <= settings.threshold


def same_text(text: str) -> str:
    """Return a text in the form compared for equality: NFC, without the white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def same_words(one: str, other: str) -> bool:
    """Tell whether two texts differ at most in letter case, white space and final punctuation."""
    return _words(one) == _words(other)


def _words(text: str) -> str:
    return " ".join(same_text(text).split()).rstrip(END).casefold()
