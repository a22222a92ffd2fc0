"""The method itself: scoped blocks, with the settings of a preset."""

import time
from collections.abc import Sequence

from benchmarks.edits.data import BenchEdit
from benchmarks.edits.peers import Applied, Reply, RouteTime, Size
from benchmarks.edits.peers.unedited import Unedited
from melo_core.base_model import BaseModel
from melo_core.edited_model import Route
from melo_core.encoder import KeyEncoder
from melo_core.session import Edit, EditSession
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier


class Blocks:
    """An editing session in memory."""

    def __init__(
        self,
        name: str,
        base: BaseModel,
        encoder: KeyEncoder,
        settings: MethodSettings,
        verifier: Verifier | None,
    ) -> None:
        self.name = name
        self.settings_used: dict[str, object] = settings.to_json()
        self.session = EditSession(base, encoder, settings, verifier)
        self.unedited = Unedited(base)
        self.encoder = encoder
        self._routed: dict[tuple[str, str], Route] = {}  # by prompt and kind, until the next batch is learned

    def apply(self, edits: Sequence[BenchEdit]) -> Applied:
        """Train a batch and insert it into the index."""
        self._routed.clear()
        report = self.session.apply([Edit(e.prompt, e.target, e.kind, e.rephrases) for e in edits])
        lists = report.conflicts, report.forgotten, report.unreached, report.unlearned
        return Applied(*(len(found) for found in lists))

    def covers(self, prompts: Sequence[str], kind: str) -> list[bool]:
        """Tell which prompts are routed to a block."""
        return [route.block is not None for route in self._routes(prompts, kind)]

    def covering(self, prompts: Sequence[str], kind: str) -> list[int | None] | None:
        """Return the best of the edits that were considered, where it covers the prompt."""
        routes = self._routes(prompts, kind)
        return [None if route.block is None else route.considered[0].edit for route in routes]

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Route the prompts and answer them in one batch."""
        answers = self.session.model.answer(prompts, self._routes(prompts, kind), kind, longest)
        return [Reply(answer.text, answer.token_ids, answer.said_to == "query") for answer in answers]

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Compute losses with the blocks that the prompts are routed to."""
        with self.session.model.attached(self._routes(prompts, "completion")):
            return self.unedited.losses(prompts, continuations)

    def size(self) -> Size:
        """Return the size of the blocks as stored, and of the keys in float32."""
        blocks = self.session.blocks.values()
        keys = sum(key.numel() for key in self.session.index.keys.values())
        parameters = sum(w.numel() for block in blocks for pair in block.weights.values() for w in pair)
        return Size(sum(len(block.to_bytes()) for block in blocks) + 4 * keys, parameters + keys)

    def route_time(self, prompt: str, kind: str) -> RouteTime | None:
        """Time the encoder's pass, then the search; the verifier's share is the rest of the routing time."""
        session = self.session
        start = time.perf_counter()
        keys = self.encoder.query_keys(prompt, kind)
        computed = time.perf_counter()
        if session.verifier is None:
            session.index.lookup(keys)
            return RouteTime(computed - start, time.perf_counter() - computed)
        session.index.within(keys, session.settings.candidate_radius)
        searched = time.perf_counter()
        session.model.route(prompt, kind)
        verify = (time.perf_counter() - searched) - (searched - start)
        return RouteTime(computed - start, searched - computed, max(verify, 0.0))  # below 0: noise, nothing was read

    def _routes(self, prompts: Sequence[str], kind: str) -> list[Route]:
        for prompt in prompts:
            if (prompt, kind) not in self._routed:
                self._routed[prompt, kind] = self.session.model.route(prompt, kind)
        return [self._routed[prompt, kind] for prompt in prompts]
