"""GRACE (Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031): a codebook that replaces one layer's output.

Keys are the inputs of the layer at the last prompt token, each with a deferral radius ε; a value replaces the layer's
output from there on when the nearest key lies within its ε.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.edits.data import BenchEdit
from benchmarks.edits.peers import Applied, Reply, RouteTime, Size
from benchmarks.edits.peers.unedited import Unedited
from melo_core.base_model import BaseModel
from melo_core.encoder import ordinary_questions
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of
from melo_core.training import Example, remember

DEPTH = 0.75  # as a share of the layers; the paper edits layer 35 of GPT-2 XL's 48
LEARNING_RATE = 1.0  # the paper's
STEPS = 100  # the paper's
LOSS_TARGET = 0.02
CALIBRATION = 200  # ordinary questions from which ε is set
TOGETHER = 16


@dataclass
class Entry:
    """A key's label and radius, and the value that it stands for."""

    label: tuple[int, ...]
    epsilon: float
    value: Tensor  # (d_out,)


class Grace:
    """The codebook, and the layer that it adapts."""

    name = "grace"

    def __init__(self, base: BaseModel, settings: MethodSettings) -> None:
        every_layer = MethodSettings(layers=1_000, seed=settings.seed)
        modules = list(structure_of(base.model, every_layer).modules)
        self.settings = MethodSettings(modules=(modules[int(DEPTH * (len(modules) - 1))],), positions="answer")
        self.base, self.unedited = base, Unedited(base)
        self.structure = structure_of(base.model, self.settings)
        ((_, self.module),) = self.structure.modules.items()
        ((width, _),) = self.structure.shapes.values()
        self.keys = torch.empty(0, width, device=base.device)
        self.entries: list[Entry] = []
        self._found: dict[tuple[str, str], Entry | None] = {}  # by prompt and kind, until the next batch is learned
        self.epsilon = self._start_epsilon()
        self.settings_used: dict[str, object] = {
            "module": self.settings.modules[0], "epsilon": self.epsilon, "learning_rate": LEARNING_RATE,
            "steps": STEPS, "loss_target": LOSS_TARGET,
        }  # fmt: skip

    def apply(self, edits: Sequence[BenchEdit]) -> Applied:
        """Add, expand or split an entry for each prompt (the paper's algorithm 1), then train the new values."""
        self._found.clear()
        asked = [(edit, prompt) for edit in edits for prompt in (edit.prompt, *edit.rephrases)]
        new: list[tuple[int, Example]] = []
        conflicts = 0
        keys = torch.cat([self._keys([prompt], edit.kind) for edit, prompt in asked])
        for key, (edit, prompt) in zip(keys, asked, strict=True):
            target = self.base.target_ids(edit.target, edit.kind, prompt)
            example = Example(self.base.prompt_ids(prompt, edit.kind), target)
            label = tuple(example.target_ids)
            epsilon = self.epsilon
            if self.entries:
                distances = torch.linalg.vector_norm(self.keys - key, dim=1)
                nearest = int(distances.argmin())
                distance, entry = float(distances[nearest]), self.entries[nearest]
                if distance <= entry.epsilon + self.epsilon:
                    if entry.label == label:
                        entry.epsilon = max(entry.epsilon, distance)
                        continue
                    conflicts += 1
                    entry.epsilon = epsilon = distance / 2
            new.append((len(self.entries), example))
            self.keys = torch.cat([self.keys, key[None]])
            self.entries.append(Entry(label, epsilon, torch.empty(0)))
        return Applied(conflicts, 0, self._train(new) if new else 0)

    def covers(self, prompts: Sequence[str], kind: str) -> list[bool]:
        """Tell for which prompts the nearest key lies within its ε."""
        return [entry is not None for entry in self._route(prompts, kind)]

    def covering(self, prompts: Sequence[str], kind: str) -> list[int | None] | None:
        """Return None: an entry stands for all edits that joined it with the same answer."""
        return None

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Answer with routes that are decided at the prompt's last token and kept while decoding."""
        with self._attached(self._route(prompts, kind)):
            return self.unedited.answer(prompts, kind, longest)

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Compute losses with the routes of the prompts."""
        with self._attached(self._route(prompts, "completion")):
            return self.unedited.losses(prompts, continuations)

    def size(self) -> Size:
        """Return the size of keys and values in fp16, and of an ε for each."""
        parameters = self.keys.numel() + sum(entry.value.numel() for entry in self.entries) + len(self.entries)
        return Size(2 * parameters, parameters)

    def route_time(self, prompt: str, kind: str) -> RouteTime | None:
        """Time the routing. The key needs a pass up to the layer, which answering would share."""
        start = time.perf_counter()
        key = self._keys([prompt], kind)
        computed = time.perf_counter()
        self._nearest(key)
        return RouteTime(computed - start, time.perf_counter() - computed)

    def _route(self, prompts: Sequence[str], kind: str) -> list[Entry | None]:
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, kind) not in self._found]
        for start in range(0, len(new), TOGETHER):
            part = new[start : start + TOGETHER]
            entries = self._nearest(self._keys(part, kind))
            self._found |= {(prompt, kind): entry for prompt, entry in zip(part, entries, strict=True)}
        return [self._found[prompt, kind] for prompt in prompts]

    def _nearest(self, keys: Tensor) -> list[Entry | None]:
        if not self.entries:
            return [None] * len(keys)
        distances, nearest = torch.cdist(keys, self.keys).min(1)
        return [
            self.entries[i] if distance <= self.entries[i].epsilon else None
            for distance, i in zip(distances.tolist(), nearest.tolist(), strict=True)
        ]

    @torch.no_grad()
    def _keys(self, prompts: Sequence[str], kind: str) -> Tensor:
        """Return (prompts, d_in) float32: the layer's input at the position from which values act."""
        rows = [self.base.prompt_ids(prompt, kind) for prompt in prompts]
        ids, mask = self.base.pad(rows, "left" if self.base.kind is Kind.CAUSAL else "right")
        seen: list[Tensor] = []
        hook = self.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            if self.base.kind is Kind.SEQ2SEQ:
                begin = torch.full_like(ids[:, :1], self.base.model.config.decoder_start_token_id)
                self.base.model(input_ids=ids, attention_mask=mask, decoder_input_ids=begin)
            elif self.base.kind is Kind.CAUSAL:
                places = (mask.cumsum(1) - 1).clamp_min(0)
                self.base.model(input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=1)
            else:
                self.base.model(input_ids=ids, attention_mask=mask)
        finally:
            hook.remove()
        return seen[0][:, -1 if self.base.kind is Kind.CAUSAL else 0].float()

    @contextmanager
    def _attached(self, route: Sequence[Entry | None]) -> Iterator[None]:
        covered = [(i, entry.value) for i, entry in enumerate(route) if entry is not None]
        if not covered:
            yield
            return
        rows = torch.tensor([i for i, _ in covered], device=self.base.device)
        with _replaced(self.module, torch.stack([value for _, value in covered]), rows, self._first_place()):
            yield

    def _first_place(self) -> int:
        return -1 if self.base.kind is Kind.CAUSAL else 0

    def _train(self, new: Sequence[tuple[int, Example]]) -> int:
        """Train values by Adam from the layer's own output, all at once, since no value sees another's loss."""
        memory = remember(self.base, self.settings, self.structure, [example for _, example in new])
        outputs: list[Tensor] = []
        hook = self.module.register_forward_hook(lambda _, __, out: outputs.append(out))
        try:
            with torch.no_grad():
                memory.logits()
        finally:
            hook.remove()
        values = outputs[0][:, 0].float().clone().requires_grad_()  # (n, d_out)
        adam = torch.optim.Adam([values], lr=LEARNING_RATE)
        rows, best = torch.arange(len(new), device=values.device), torch.full((len(new),), torch.inf)
        kept = values.detach().clone()
        for _ in range(STEPS):
            with _replaced(self.module, values, rows, 0):
                logits, labels, row = memory.logits()
            entropy = F.cross_entropy(logits.float(), labels, reduction="none")
            total = torch.zeros(len(new), device=row.device).index_add(0, row, entropy)
            loss = total / torch.bincount(row, minlength=len(new))
            better = (loss.detach().cpu() < best).to(values.device)
            best = torch.minimum(best, loss.detach().cpu())
            kept[better] = values.detach()[better]
            if bool((best < LOSS_TARGET).all()):
                break
            (values.grad,) = torch.autograd.grad(loss.sum(), [values])
            adam.step()
        for (number, _), value in zip(new, kept, strict=True):
            self.entries[number].value = value
        return int((best >= LOSS_TARGET).sum())

    def _start_epsilon(self) -> float:
        """Return a radius in which few ordinary questions have another: the 5 % quantile of nearest neighbours."""
        questions = ordinary_questions()[:CALIBRATION]
        kind = "qa"
        keys = torch.cat([self._keys(questions[i : i + TOGETHER], kind) for i in range(0, len(questions), TOGETHER)])
        apart = torch.cdist(keys, keys).fill_diagonal_(torch.inf).min(1).values
        return float(apart.quantile(0.05))


@contextmanager
def _replaced(module: nn.Module, values: Tensor, rows: Tensor, first: int) -> Iterator[None]:
    """Replace the module's output at and after position `first` by values (k, d_out), in the given rows, while open."""

    def replace(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out.clone()
        out[rows, first:] = values[:, None].to(out.dtype).expand(-1, out[:, first:].shape[1], -1)
        return out

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
