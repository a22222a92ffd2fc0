"""Retrieval: the correction that lies nearest to a prompt is put into it, and the model is left as it is."""

import time
from collections.abc import Sequence

from melo_core.encoder import SentenceEncoder
from melo_core.index import ClusterIndex, Outcome
from melo_core.settings import MethodSettings
from worker.bench.data import BenchEdit
from worker.bench.peers import Applied, Reply, RouteTime, Size
from worker.bench.peers.unedited import Unedited


class InContext:
    """The same scope as the blocks' (encoder, index, radius), with a sentence in the place of a block."""

    name = "in-context"

    def __init__(self, unedited: Unedited, encoder: SentenceEncoder, settings: MethodSettings) -> None:
        self.unedited, self.encoder = unedited, encoder
        self.index = ClusterIndex(encoder.dimension, settings.radius, settings.clustering)
        self.facts: list[str] = []  # of each point
        self.settings_used: dict[str, object] = {"radius": settings.radius, "clustering": settings.clustering}

    def apply(self, edits: Sequence[BenchEdit]) -> Applied:
        """Nothing is trained."""
        conflicts = 0
        for edit in edits:
            met = False
            for prompt in (edit.prompt, *edit.rephrases):
                label = tuple(edit.target.encode())
                inserted = self.index.insert(len(self.facts), self.encoder.key(prompt), label)
                met |= inserted.outcome is Outcome.OVERLAPS
                self.facts.append(f"{edit.prompt} {edit.target.rstrip('.')}.")
            conflicts += met
        return Applied(conflicts)

    def covers(self, prompts: Sequence[str], kind: str) -> list[bool]:
        """Whether a correction lies within the radius."""
        return [self._fact(prompt) is not None for prompt in prompts]

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Prompts without a correction are answered in the same batch as without any corrections."""
        facts = [self._fact(prompt) for prompt in prompts]
        covered = [i for i, fact in enumerate(facts) if fact is not None]
        replies = self.unedited.answer(prompts, kind, longest) if len(covered) < len(prompts) else []
        told = self.unedited.answer([f"Fact: {facts[i]}\n{prompts[i]}" for i in covered], kind, longest)
        by_row = dict(enumerate(replies)) | dict(zip(covered, told, strict=True))
        return [by_row[i] for i in range(len(prompts))]

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """With the correction before the prompt."""
        facts = [self._fact(prompt) for prompt in prompts]
        covered = [i for i, fact in enumerate(facts) if fact is not None]
        plain = self.unedited.losses(prompts, continuations) if len(covered) < len(prompts) else []
        found = dict(enumerate(plain))
        if covered:
            told = [f"Fact: {facts[i]}\n{prompts[i]}" for i in covered]
            found |= dict(zip(covered, self.unedited.losses(told, [continuations[i] for i in covered]), strict=True))
        return [found[i] for i in range(len(prompts))]

    def size(self) -> Size:
        """Keys in float32, and the text."""
        keys = sum(key.numel() for key in self.index.keys.values())
        return Size(4 * keys + sum(len(fact.encode()) for fact in self.facts), keys)

    def route_time(self, prompt: str, kind: str) -> RouteTime | None:
        """The encoder's pass, then the search."""
        start = time.perf_counter()
        keys = self.encoder.query_keys(prompt)
        computed = time.perf_counter()
        self.index.lookup(keys)
        return RouteTime(computed - start, time.perf_counter() - computed)

    def _fact(self, prompt: str) -> str | None:
        match = self.index.lookup(self.encoder.query_keys(prompt))
        return self.facts[match.point] if match and match.covers else None
