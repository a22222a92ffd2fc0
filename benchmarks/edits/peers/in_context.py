"""Retrieval: inserts the correction nearest to a prompt into the prompt, and leaves the model unchanged."""

import time
from collections.abc import Sequence

from benchmarks.edits.data import BenchEdit
from benchmarks.edits.peers import Applied, Reply, RouteTime, Size
from benchmarks.edits.peers.unedited import Unedited
from melo_core.encoder import KeyEncoder
from melo_core.index import ClusterIndex, Outcome
from melo_core.settings import MethodSettings


class InContext:
    """The same scope as the blocks' (encoder, index, radius), with a sentence in place of a block."""

    name = "in-context"

    def __init__(self, unedited: Unedited, encoder: KeyEncoder, settings: MethodSettings) -> None:
        self.unedited, self.encoder = unedited, encoder
        self.index = ClusterIndex(encoder.dimension, settings.radius, settings.clustering)
        self.facts: list[str] = []  # of each point
        self._found: dict[tuple[str, str], str | None] = {}  # by prompt and kind, until the next batch is learned
        self.settings_used: dict[str, object] = {"radius": settings.radius, "clustering": settings.clustering}

    def apply(self, edits: Sequence[BenchEdit]) -> Applied:
        """Store a batch. Nothing is trained."""
        self._found.clear()
        conflicts = 0
        for edit in edits:
            met = False
            for prompt in (edit.prompt, *edit.rephrases):
                label = tuple(edit.target.encode())
                inserted = self.index.insert(len(self.facts), self.encoder.key(prompt, edit.kind), label)
                met |= inserted.outcome is Outcome.OVERLAPS
                self.facts.append(f"{edit.prompt} {edit.target.rstrip('.')}.")
            conflicts += met
        return Applied(conflicts)

    def covers(self, prompts: Sequence[str], kind: str) -> list[bool]:
        """Tell for which prompts a correction lies within the radius."""
        return [self._fact(prompt, kind) is not None for prompt in prompts]

    def covering(self, prompts: Sequence[str], kind: str) -> list[int | None] | None:
        """Return None: a correction is told to the model, which answers in sentences of its own."""
        return None

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Answer in one batch; prompts without a correction are in the same batch as without any corrections."""
        facts = [self._fact(prompt, kind) for prompt in prompts]
        covered = [i for i, fact in enumerate(facts) if fact is not None]
        replies = self.unedited.answer(prompts, kind, longest) if len(covered) < len(prompts) else []
        told = self.unedited.answer([f"Fact: {facts[i]}\n{prompts[i]}" for i in covered], kind, longest)
        by_row = dict(enumerate(replies)) | dict(zip(covered, told, strict=True))
        return [by_row[i] for i in range(len(prompts))]

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Compute losses with the correction before the prompt."""
        facts = [self._fact(prompt, "completion") for prompt in prompts]
        covered = [i for i, fact in enumerate(facts) if fact is not None]
        plain = self.unedited.losses(prompts, continuations) if len(covered) < len(prompts) else []
        found = dict(enumerate(plain))
        if covered:
            told = [f"Fact: {facts[i]}\n{prompts[i]}" for i in covered]
            found |= dict(zip(covered, self.unedited.losses(told, [continuations[i] for i in covered]), strict=True))
        return [found[i] for i in range(len(prompts))]

    def size(self) -> Size:
        """Return the size of the keys in float32, and of the text."""
        keys = sum(key.numel() for key in self.index.keys.values())
        return Size(4 * keys + sum(len(fact.encode()) for fact in self.facts), keys)

    def route_time(self, prompt: str, kind: str) -> RouteTime | None:
        """Time the encoder's pass, then the search."""
        start = time.perf_counter()
        keys = self.encoder.query_keys(prompt, kind)
        computed = time.perf_counter()
        self.index.lookup(keys)
        return RouteTime(computed - start, time.perf_counter() - computed)

    def _fact(self, prompt: str, kind: str) -> str | None:
        if (prompt, kind) not in self._found:
            match = self.index.lookup(self.encoder.query_keys(prompt, kind))
            self._found[prompt, kind] = self.facts[match.point] if match and match.covers else None
        return self._found[prompt, kind]
