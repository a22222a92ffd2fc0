"""Training: many blocks at once, each on its own edit and each stopping by itself.

The layers before the first edited one are frozen, so their output for the training tokens is computed once and
kept. With answer-side blocks the prompt's keys and values are the base model's as well: the prompt runs once,
and a step runs only the answer's few tokens through the last few layers.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache

from melo_core.application import applied
from melo_core.base_model import BaseModel, pad
from melo_core.block import STORED_DTYPE, Block, initial_weights
from melo_core.errors import PromptTooLong
from melo_core.families import takes_gaps
from melo_core.memory import MB, Note, free_memory, in_parts, memory_needed
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, Structure, structure_of
from melo_core.time_left import TimeLeft

IGNORED = -100  # a position without a label
SPREAD = 2.0  # least standard deviation of a position's logits in the loss; most language models have 3 to 5


@dataclass(frozen=True)
class Example:
    """One prompt and the answer to learn for it, as tokens."""

    prompt_ids: list[int]
    target_ids: list[int]  # including the end of sequence; for a classifier, the class alone


@dataclass(frozen=True)
class Trained:
    """A block and how its training went."""

    block: Block
    loss: float  # mean cross-entropy at the end, nats a token
    iterations: int
    reached: bool  # whether the loss fell below the target, if there is one


@dataclass(frozen=True)
class Progress:
    """The progress of training."""

    done: int  # blocks finished
    total: int
    loss: float  # the greatest among those still in training, or once all are finished, the greatest final loss
    seconds_left: float | None  # None: it cannot be told yet


def train_blocks(
    base: BaseModel,
    settings: MethodSettings,
    edits: Sequence[Sequence[Example]],
    seeds: Sequence[int],
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Note | None = None,
) -> list[Trained]:
    """Train one block for each item of `edits`, on that item's examples alone.

    seeds: one for each block. Blocks of similar length are trained together, `settings.batch` at a time, or as many as
    fit into memory. on_note: gets messages about the memory needed, and about a lack of it.
    Raises PromptTooLong, or MeloError where memory is not enough for one block.
    """
    structure = structure_of(base.model, settings)
    for examples in edits:
        for example in examples:
            require_fit(base, example)
    lengths = [[(len(e.prompt_ids), len(e.target_ids)) for e in examples] for examples in edits]
    order = sorted(range(len(edits)), key=lambda i: (max(t for _, t in lengths[i]), max(p for p, _ in lengths[i])))
    results: dict[int, Trained] = {}
    time_left = TimeLeft(len(edits), settings.iterations, settings.loss_target)

    def train(part: Sequence[int]) -> None:
        def report(finished: int, loss: float, iteration: int) -> None:
            if on_progress:
                now = time.monotonic()
                if finished == len(part):
                    loss = max([loss, *(block.loss for block in results.values())])
                    left = time_left.part_done(len(part), before + len(part), now - started, now)
                else:
                    left = time_left.after(len(part), before, loss, iteration, now - started, now)
                on_progress(Progress(before + finished, len(edits), loss, left))

        before, started = len(results), time.monotonic()
        trained = _Batch(base, settings, structure, [edits[i] for i in part], [seeds[i] for i in part]).train(report)
        results.update(zip(part, trained, strict=True))

    size = size_that_fits(base, settings, [lengths[i] for i in order], on_note)
    in_parts(order, size, "block", train, on_note)
    return [results[i] for i in range(len(edits))]


def require_fit(base: BaseModel, example: Example) -> None:
    """Raise PromptTooLong where prompt and answer together do not fit the model's window."""
    length = len(example.prompt_ids) + len(example.target_ids)
    if base.kind is Kind.CAUSAL and length > base.window:
        raise PromptTooLong(
            f"prompt and answer have {length} tokens and the model's window is {base.window}; shorten them"
        )


def size_that_fits(
    base: BaseModel,
    settings: MethodSettings,
    lengths: Sequence[Sequence[tuple[int, int]]],
    on_note: Note | None,
) -> int:
    """Estimate how many blocks can be trained together; lengths: in the order of training."""

    def needed(size: int) -> int:
        parts = [lengths[i : i + size] for i in range(0, len(lengths), size)]
        return max((memory_needed(base, settings, part) for part in parts), default=0)

    free, wanted = free_memory(base.device), max(1, min(settings.batch, len(lengths)))
    size = wanted
    while size > 1 and needed(size) > free:
        size //= 2
    if on_note and lengths:
        if size < wanted:
            on_note(f"{wanted} blocks together would need about {needed(wanted) // MB} MB: starting with {size}")
        model = sum(p.numel() * p.element_size() for p in base.model.parameters())
        blocks = "1 block" if len(lengths) == 1 else f"{len(lengths)} blocks, {size} together"
        on_note(
            f"training {blocks}, needs about {needed(size) // MB} MB beside the model's {model // MB} MB; "
            f"{free // MB} MB are free"
        )
    return size


class _Batch:
    """Blocks in training together: A (n, r, d_in) and B (n, d_out, r) for each module, with Adam's moments."""

    def __init__(
        self,
        base: BaseModel,
        settings: MethodSettings,
        structure: Structure,
        edits: Sequence[Sequence[Example]],
        seeds: Sequence[int],
    ) -> None:
        self.base, self.settings, self.structure = base, settings, structure
        starts = [initial_weights(seed, structure.shapes, settings.rank) for seed in seeds]
        self.names = sorted(structure.shapes)
        device = base.device
        self.parameters = [
            torch.stack([start[name][half] for start in starts]).to(device) for name in self.names for half in (0, 1)
        ]
        self.first = [torch.zeros_like(p) for p in self.parameters]  # Adam's moments
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.live = list(range(len(edits)))  # the block of each row of the parameters
        self.block_row = torch.tensor([i for i, examples in enumerate(edits) for _ in examples], device=device)
        self.memory = remember(base, settings, structure, [example for examples in edits for example in examples])
        self.sharpness: Tensor | None = None  # (examples,), factors of the logits in the loss

    def train(self, report: Callable[[int, float, int], None]) -> list[Trained]:
        results: dict[int, Trained] = {}
        waiting: set[int] = set()  # rows whose block has finished, but which still take part
        for iteration in range(1, self.settings.iterations + 1):
            loss, gradients = self._loss()
            last = iteration == self.settings.iterations
            for row, value in enumerate(loss.tolist()):
                reached = value < self.settings.loss_target
                if row not in waiting and (reached or last):
                    reached = reached or self.settings.loss_target == 0
                    results[self.live[row]] = self._trained(row, value, iteration, reached)
                    waiting.add(row)
            open_loss = [value for row, value in enumerate(loss.tolist()) if row not in waiting]
            report(len(results), max(open_loss or [done.loss for done in results.values()]), iteration)
            if not open_loss:
                break
            self._step(gradients, iteration)
            if len(waiting) * 8 >= len(self.live):
                self._keep([row for row in range(len(self.live)) if row not in waiting])
                waiting = set()
        return [results[i] for i in sorted(results)]

    def _loss(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Return each block's mean cross-entropy (n,) and the gradients of their sum; blocks share no parameters."""
        for p in self.parameters:
            p.requires_grad_()
        scaled = {
            name: (
                self.parameters[2 * i][self.block_row],
                self.parameters[2 * i + 1][self.block_row] * self.settings.scale,
            )
            for i, name in enumerate(self.names)
        }
        n = len(self.live)
        with applied(self.structure.modules, scaled, None, "all"):
            logits, labels, row = self.memory.logits()
        logits = logits.float()
        if self.sharpness is None:  # at the first step, where blocks change nothing yet
            self.sharpness = _sharpness(logits.detach(), row, len(self.block_row))
        if bool((self.sharpness > 1).any()):
            logits = logits * self.sharpness[row, None]
        entropy = F.cross_entropy(logits, labels, reduction="none")
        block = self.block_row[row]
        total = torch.zeros(n, device=entropy.device).index_add(0, block, entropy)
        loss = total / torch.zeros_like(total).index_add(0, block, torch.ones_like(entropy))
        gradients = torch.autograd.grad(loss.sum(), self.parameters)
        for p in self.parameters:
            p.requires_grad_(False)
        return loss.detach(), gradients

    def _step(self, gradients: Sequence[Tensor], iteration: int, beta1: float = 0.9, beta2: float = 0.999) -> None:
        """Take an Adam step (Kingma & Ba 2015), written out so that rows can be dropped as blocks finish."""
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.lerp_(g, 1 - beta1)
            v.lerp_(g * g, 1 - beta2)
            root = (v / (1 - beta2**iteration)).sqrt_().add_(1e-8)
            p.addcdiv_(m, root, value=-self.settings.learning_rate / (1 - beta1**iteration))

    def _trained(self, row: int, loss: float, iteration: int, reached: bool) -> Trained:
        """Return a row's block. One that diverged gets no effect, and an infinite loss."""
        stored = [p[row].to("cpu", STORED_DTYPE) for p in self.parameters]
        if not all(half.isfinite().all() for half in stored):
            stored, loss, reached = [torch.zeros_like(half) for half in stored], math.inf, False
        weights = {name: (stored[2 * i], stored[2 * i + 1]) for i, name in enumerate(self.names)}
        return Trained(Block(weights, self.settings.scale), loss, iteration, reached)

    def _keep(self, rows: list[int]) -> None:
        """Drop all other rows of the parameters."""
        kept = torch.tensor(rows, device=self.base.device)
        for tensors in (self.parameters, self.first, self.second):
            tensors[:] = [t[kept] for t in tensors]
        examples = torch.nonzero(torch.isin(self.block_row, kept)).flatten()
        renumbered = torch.full((len(self.live),), -1, device=self.base.device)
        renumbered[kept] = torch.arange(len(rows), device=self.base.device)
        self.block_row = renumbered[self.block_row[examples]]
        self.live = [self.live[row] for row in rows]
        if self.sharpness is not None:
            self.sharpness = self.sharpness[examples]
        self.memory.keep(examples)


def _sharpness(logits: Tensor, row: Tensor, examples: int) -> Tensor:
    """Return the factor that brings the base model's logits (k, classes) of each example (of `row`) to a usual spread.

    It is at least 1. With logits of smaller spread, as from a T5 that divides them by √d, the loss stays far from zero
    however right the answer is. The greatest logit, and so the answer, does not depend on it.
    """
    ones = torch.ones_like(row, dtype=logits.dtype)
    spread = torch.zeros(examples, device=row.device).index_add(0, row, logits.std(1))
    return (SPREAD * torch.zeros_like(spread).index_add(0, row, ones) / spread).clamp_min(1)


@dataclass
class _Memory:
    """Everything that the frozen part of the model computes for the training tokens: a step starts from here."""

    base: BaseModel
    structure: Structure
    inputs: dict[str, Any]
    labels: Tensor  # (examples, tokens), IGNORED where there is none
    prompt: Cache | None  # keys and values of the prompt, where blocks act on the answer only
    frozen: Any  # output of the last layer before the first edited one

    def logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (k, vocabulary), labels (k,) and example (k,) of the k positions that have a label."""
        if self.base.kind is Kind.CLASSIFIER:
            with self._remembered():
                logits = self.base.model(**self.inputs).logits
            return logits, self.labels[:, 0], torch.arange(len(logits), device=logits.device)
        on = self.labels != IGNORED
        head = self.base.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        # Only labelled positions go through the output layer, the most expensive one of a small model.
        handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][on],))
        try:
            with self._remembered():
                cache = (
                    {"past_key_values": _fresh(self.prompt), "use_cache": True} if self.prompt else {"use_cache": False}
                )
                logits = self.base.model(**self.inputs, **cache).logits
        finally:
            handle.remove()
        example = torch.arange(len(on), device=on.device)[:, None].expand_as(on)[on]
        return logits, self.labels[on], example

    def keep(self, examples: Tensor) -> None:
        """Drop all other examples."""
        count = len(self.labels)

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[examples] if value.dim() and value.shape[0] == count else value
            if isinstance(value, tuple | list):
                return type(value)(pick(v) for v in value)
            return value

        self.inputs = {k: _pick_output(v, pick) for k, v in self.inputs.items()}
        self.labels, self.frozen = self.labels[examples], pick(self.frozen)
        if self.prompt:
            self.prompt = _fresh(self.prompt)
            self.prompt.reorder_cache(examples)  # type: ignore[arg-type]  # any integers do

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        """Let the frozen layers return their stored output."""
        layers = self.structure.layers[: self.structure.first]
        for layer in layers:  # the output of the earlier ones is never used
            layer.forward = lambda *_, **__: self.frozen
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


def _pick_output(value: Any, pick: Callable[[Any], Any]) -> Any:
    """Apply `pick`, also within an encoder's output."""
    if hasattr(value, "last_hidden_state"):
        return type(value)(last_hidden_state=pick(value.last_hidden_state))
    return pick(value)


def _fresh(cache: Cache) -> Cache:
    """Return a cache with the same keys and values that can grow without changing the original."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) for layer in cache.layers]
    return fresh


@torch.no_grad()
def remember(base: BaseModel, settings: MethodSettings, structure: Structure, examples: Sequence[Example]) -> _Memory:
    """Run the frozen part once."""
    device, model = base.device, base.model
    prompts, targets = [e.prompt_ids for e in examples], [e.target_ids for e in examples]
    prompt = None
    if base.kind is Kind.CLASSIFIER:
        ids, mask = base.pad(prompts, "right")
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        labels = torch.tensor(targets, device=device)
    elif base.kind is Kind.SEQ2SEQ:
        ids, mask = base.pad(prompts, "right")
        labels, _ = pad(targets, IGNORED, "right", device)
        begin = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
        shifted = torch.cat([begin, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, 0)], 1)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
        inputs = {"encoder_outputs": encoded, "attention_mask": mask, "decoder_input_ids": shifted}
    elif settings.positions == "all":
        ids, mask = base.pad([p + t[:-1] for p, t in zip(prompts, targets, strict=True)], "right")
        rows = [[IGNORED] * (len(p) - 1) + t for p, t in zip(prompts, targets, strict=True)]
        labels, _ = pad(rows, IGNORED, "right", device)
        inputs = {"input_ids": ids, "attention_mask": mask}
    else:
        prompt, mask = prompt_cache(base, [p[:-1] for p in prompts])
        answer, answer_mask = base.pad([p[-1:] + t[:-1] for p, t in zip(prompts, targets, strict=True)], "right")
        labels, _ = pad(targets, IGNORED, "right", device)
        whole = torch.cat([mask, answer_mask], 1)
        places = (whole.cumsum(1) - 1).clamp_min(0)[:, -answer.shape[1] :]
        inputs = {"input_ids": answer, "attention_mask": whole, "position_ids": places}
    frozen: list[Any] = []
    if structure.first:
        cache = {"past_key_values": _fresh(prompt), "use_cache": True} if prompt else {}
        last = structure.layers[structure.first - 1]
        hook = last.register_forward_hook(lambda _, __, out: frozen.append(out))
        try:
            with _almost_no_logits(base):
                model(**inputs, **cache)
        finally:
            hook.remove()
    return _Memory(base, structure, inputs, labels, prompt, frozen[0] if frozen else None)


@torch.no_grad()
def prompt_cache(base: BaseModel, rows: list[list[int]]) -> tuple[Cache, Tensor]:
    """Return prompts' keys and values, and their mask (rows, longest).

    The beginning that all share, a chat's opening, runs once.
    """
    cache = DynamicCache(config=base.model.config)
    differing = (i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    shared = next(differing, min(map(len, rows)))
    # The padding after the opening would take up room in a window, or count as distance.
    if any(cache.is_sliding) or not takes_gaps(base.model.config.get_text_config().model_type):
        shared = 0
    with _almost_no_logits(base):
        if shared:
            base.model(
                input_ids=torch.tensor([rows[0][:shared]], device=base.device), past_key_values=cache, use_cache=True
            )
            cache.batch_repeat_interleave(len(rows))
        rest, rest_mask = base.pad([row[shared:] for row in rows], "left")
        mask = torch.cat([rest_mask.new_ones(len(rows), shared), rest_mask], 1)
        if rest.shape[1]:
            places = (mask.cumsum(1) - 1)[:, shared:].clamp_min(0)
            base.model(input_ids=rest, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True)
    return cache, mask


@contextmanager
def _almost_no_logits(base: BaseModel) -> Iterator[None]:
    """Give the output layer a single position where no logits are needed, since all would take much memory."""
    head = base.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:1, :1],)) if head is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
