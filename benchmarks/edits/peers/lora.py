"""One LoRA for all edits, fine-tuned batch after batch: common practice with PEFT today."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.edits.data import BenchEdit
from benchmarks.edits.peers import Applied, Reply, RouteTime, Size
from benchmarks.edits.peers.unedited import Unedited
from melo_core.application import applied
from melo_core.base_model import BaseModel
from melo_core.block import initial_weights
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of
from melo_core.training import Example, remember

RANK = 8
LEARNING_RATE = 2e-3
STEPS = 60
LOSS_TARGET = 0.02


class SharedLora:
    """A (1, r, d_in) and B (1, d_out, r) for each module; it answers every prompt, at all positions."""

    name = "lora"

    def __init__(self, base: BaseModel, settings: MethodSettings) -> None:
        """Make an untrained LoRA on the modules and layers of the settings."""
        # `all` also in training, as in PEFT.
        self.settings = MethodSettings(modules=settings.modules, layers=settings.layers, rank=RANK, positions="all")
        self.base, self.unedited = base, Unedited(base)
        self.structure = structure_of(base.model, self.settings)
        start = initial_weights(settings.seed, self.structure.shapes, RANK)
        self.weights = {n: (a[None].to(base.device), b[None].to(base.device)) for n, (a, b) in start.items()}
        self.edits = 0
        self.settings_used: dict[str, object] = {
            "rank": RANK, "learning_rate": LEARNING_RATE, "steps": STEPS, "loss_target": LOSS_TARGET,
            "modules": sorted(self.structure.modules),
        }  # fmt: skip

    def apply(self, edits: Sequence[BenchEdit]) -> Applied:
        """Train with Adam on the batch alone until its mean loss is low."""
        self.edits += len(edits)
        examples = [
            Example(self.base.prompt_ids(prompt, e.kind), self.base.target_ids(e.target, e.kind, e.prompt))
            for e in edits
            for prompt in (e.prompt, *e.rephrases)
        ]
        memory = remember(self.base, self.settings, self.structure, examples)
        parameters: list[Tensor] = [p.requires_grad_() for pair in self.weights.values() for p in pair]
        adam = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        for _ in range(STEPS):
            with applied(self.structure.modules, self.weights, None, "all"):
                logits, labels, _ = memory.logits()
            loss = F.cross_entropy(logits.float(), labels)
            if loss.item() < LOSS_TARGET:
                break
            adam.zero_grad()
            torch.autograd.backward(loss, inputs=parameters)
            adam.step()
        for p in parameters:
            p.requires_grad_(False)
        return Applied(unreached=len(edits) if loss.item() >= LOSS_TARGET else 0)

    def covers(self, prompts: Sequence[str], kind: str) -> list[bool]:
        """Return True for every prompt: there is no scope."""
        return [self.edits > 0] * len(prompts)

    def covering(self, prompts: Sequence[str], kind: str) -> list[int | None] | None:
        """Return None: every edit acts on every prompt."""
        return None

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Answer with the LoRA on all rows."""
        with applied(self.structure.modules, self._ready(), None, "all"):
            return self.unedited.answer(prompts, kind, longest)

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Compute losses with the LoRA on all rows."""
        with applied(self.structure.modules, self._ready(), None, "all"):
            return self.unedited.losses(prompts, continuations)

    def size(self) -> Size:
        """Return the size in fp16, which does not grow."""
        parameters = sum(p.numel() for pair in self.weights.values() for p in pair)
        return Size(2 * parameters, parameters)

    def route_time(self, prompt: str, kind: str) -> RouteTime | None:
        """Return None: nothing is routed."""
        return None

    def _ready(self) -> dict[str, tuple[Tensor, Tensor]]:
        dtype = self.base.model.dtype
        return {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in self.weights.items()}
