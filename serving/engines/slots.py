"""Keys and values of several rows of tokens, which grow on the right and may be moved, freed and reused."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

GROWN_BY = 256  # columns, whenever there are too few

Prefix = list[tuple[Tensor, Tensor]]  # by layer: keys and values (heads, tokens, dim) of a row's first tokens


class Rows:
    """Rows of keys and values. All rows end at the same column; each begins where its own first token is."""

    def __init__(self, model: PreTrainedModel, rows: int, columns: int) -> None:
        self.model, self.rows, self.columns = model, rows, columns
        self.starts: list[int] = []  # of each row in use: the column of its first token
        self.end = 0  # the column after the last token, of all rows
        self._config = model.config.get_text_config()
        self._layers = [_Layer(self) for _ in range(self._config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self.at = self.origin = 0  # of the pass that runs: its first column, and the first column that it reads

    def forward(self, ids: Tensor, at: int) -> Tensor:
        """Compute tokens (rows in use, t) at the columns from `at` on; return the last column's logits, in float32."""
        width, device = ids.shape[1], ids.device
        self.at, self.origin = at, min(self.starts)
        if at + width > self.columns:
            self._grow(at + width)
        columns = torch.arange(self.origin, at + width, device=device)
        asked = torch.arange(at, at + width, device=device)
        starts = torch.tensor(self.starts, device=device)
        positions = (asked[None] - starts[:, None]).clamp(min=0)
        mask = (columns >= starts[:, None, None]) & (columns <= asked[:, None])
        mask |= (columns == asked[:, None])[None]  # padding sees itself: a row of nothing would be no number
        masks: Any = mask[:, None]
        if "sliding_attention" in (getattr(self._config, "layer_types", None) or ()):
            near = columns > asked[:, None] - self._config.sliding_window
            masks = {"full_attention": masks, "sliding_attention": masks & near}
        out = self.model(
            input_ids=ids,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.end = at + width
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def adopt(self, other: "Rows") -> None:
        """Take over the rows of another cache, after those in use, so that they end at the same column."""
        longest = other.end - min(other.starts)
        if not self.starts:
            self.end = longest
        elif longest > self.end:
            self.shift(longest - self.end)
        if self.end > self.columns:
            self._grow(self.end)
        moved = self.end - other.end
        for mine, its in zip(self._layers, other._layers, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(its.keys, its.values)
            for i, start in enumerate(other.starts):
                row, there = len(self.starts) + i, slice(start + moved, self.end)
                mine.keys[row, :, there] = its.keys[i, :, start : other.end]
                mine.values[row, :, there] = its.values[i, :, start : other.end]
        self.starts += [start + moved for start in other.starts]

    def free(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last = len(self.starts) - 1
        if row != last:
            seen = slice(self.starts[last], self.end)
            for layer in self._layers:
                layer.keys[row, :, seen], layer.values[row, :, seen] = (
                    layer.keys[last, :, seen],
                    layer.values[last, :, seen],
                )
            self.starts[row] = self.starts[last]
        self.starts.pop()

    def shift(self, by: int) -> None:
        """Move all rows by some columns to the right, or, if negative, to the left."""
        if self.end + by > self.columns:
            self._grow(self.end + by)
        used = len(self.starts)
        for layer in self._layers:
            for held in (layer.keys, layer.values):
                held[:used, :, max(0, by) : self.end + by] = held[:used, :, max(0, -by) : self.end].clone()
        self.starts = [start + by for start in self.starts]
        self.end += by

    def put(self, row: int, prefix: Prefix, tokens: int, start: int) -> None:
        """Copy a row's first tokens in, from the column `start` on."""
        there = slice(start, start + tokens)
        for layer, (keys, values) in zip(self._layers, prefix, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[row, :, there], layer.values[row, :, there] = keys[:, :tokens], values[:, :tokens]

    def copy_of(self, row: int, tokens: int) -> Prefix:
        """Copy a row's first tokens out."""
        there = slice(self.starts[row], self.starts[row] + tokens)
        return [(layer.keys[row, :, there].clone(), layer.values[row, :, there].clone()) for layer in self._layers]

    def _grow(self, columns: int) -> None:
        self.columns = -(-columns // GROWN_BY) * GROWN_BY
        for layer in self._layers:
            if layer.is_initialized:
                layer.keys, layer.values = _widened(layer.keys, self.columns), _widened(layer.values, self.columns)


def _widened(held: Tensor, columns: int) -> Tensor:
    wide = held.new_zeros(*held.shape[:2], columns, held.shape[3])
    wide[:, :, : held.shape[2]] = held
    return wide


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values (rows, heads, columns, dim), written in place."""

    is_sliding = False  # the whole is kept: the mask says what a sliding window sees
    keys: Tensor
    values: Tensor

    def __init__(self, owner: Rows) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for name, like in (("keys", key_states), ("values", value_states)):
            held = like.new_zeros(self._owner.rows, like.shape[1], self._owner.columns, like.shape[3])
            setattr(self, name, held)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        owner, rows = self._owner, key_states.shape[0]
        end = owner.at + key_states.shape[2]
        self.keys[:rows, :, owner.at : end] = key_states
        self.values[:rows, :, owner.at : end] = value_states
        return self.keys[:rows, :, owner.origin : end], self.values[:rows, :, owner.origin : end]

    def get_seq_length(self) -> int:
        return self._owner.at


class Prefixes:
    """Keys and values of texts that were computed before, for requests that begin alike; the oldest make room.

    Only what the base model alone computed is kept, so a prefix serves every version and the base model.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._kept: dict[tuple[int, ...], Prefix] = {}  # the least recently used first
        self.asked = self.reused = 0  # tokens of prompts, and those of them that were not computed again

    def longest(self, ids: Sequence[int]) -> tuple[int, Prefix]:
        """Return how many of the first tokens are known, and the prefix that has them (of 0 tokens: an empty one)."""
        best, found = 0, None
        for kept in self._kept:
            if kept[:best] != tuple(ids[:best]):
                continue
            most = min(len(kept), len(ids))
            same = next((i for i in range(best, most) if kept[i] != ids[i]), most)
            if same > best:
                best, found = same, kept
        if found is None:
            return 0, []
        self._kept[found] = self._kept.pop(found)
        return best, self._kept[found]

    def keep(self, ids: Sequence[int], prefix: Prefix) -> None:
        size = _bytes(prefix)
        if not ids or size > self._most:
            return
        text = tuple(ids)
        for kept in [kept for kept in self._kept if kept == text[: len(kept)]]:  # this one has it too
            self._held -= _bytes(self._kept.pop(kept))
        while self._held + size > self._most:
            self._held -= _bytes(self._kept.pop(next(iter(self._kept))))
        self._kept[text] = prefix
        self._held += size

    def knows(self, ids: Sequence[int]) -> bool:
        text = tuple(ids)
        return any(kept[: len(text)] == text for kept in self._kept)


def _bytes(prefix: Prefix) -> int:
    return sum(t.numel() * t.element_size() for pair in prefix for t in pair)
