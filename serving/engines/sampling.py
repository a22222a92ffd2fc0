"""The choice of the next token."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serving.engines.grammar import Grammar


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0: always the most probable one."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def nth(self, n: int) -> "Sampling":
        """Return what chooses for the nth of several answers to one request."""
        return self if self.seed is None else replace(self, seed=(self.seed + n) % 2**63)

    def chooser(self, device: torch.device, grammar: Grammar | None = None) -> "Chooser | None":
        """Return what chooses tokens on a device; None: the most probable one. grammar: what the tokens keep to."""
        if self.temperature == 0 and grammar is None:
            return None
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return Chooser(self.temperature, self.top_p, generator, grammar)


@dataclass
class Chooser:
    """Draws tokens from the most probable ones that together reach top_p, of those that the grammar allows."""

    temperature: float
    top_p: float
    generator: torch.Generator
    grammar: Grammar | None = None

    def __call__(self, logits: Tensor) -> int:
        if self.grammar is not None:
            logits = self.grammar.allowed(logits)
        token = int(logits.argmax()) if self.temperature == 0 else self._drawn(logits)
        if self.grammar is not None:
            self.grammar.take(token)
        return token

    def _drawn(self, logits: Tensor) -> int:
        """Draw in the vocabulary's order: chances that another batch rounds differently change places, not the draw."""
        chances = (logits / self.temperature).softmax(-1)
        if self.top_p < 1:
            ranked, order = chances.sort(descending=True, stable=True)
            within = ranked.cumsum(-1) - ranked < self.top_p
            within[0] = True  # at least the first, also where rounding leaves nothing
            chances[order[~within]] = 0
        return int(torch.multinomial(chances, 1, generator=self.generator))
