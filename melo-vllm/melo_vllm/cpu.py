"""The CPU's LoRA kernel: only rows with a block are touched.

vLLM's own takes slot -1, which stands for "no adapter", as an index, so it is the last slot: with all slots full, base
prompts are answered by somebody's block. It also gathers A and B for every token, and expects one run of tokens for
each request, where a prompt now is two: first without, then with a block.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from melo_vllm.patching import Patch


def add_blocks(
    y: Tensor,
    x: Tensor,
    a_stacked: tuple[Tensor, ...],
    b_stacked: tuple[Tensor, ...],
    scale: float,
    widths: tuple[int, ...],
    rows: Tensor,
    slots: Tensor,
) -> None:
    """Add s · (x Aᵀ) Bᵀ to the rows of y that have a block, in place.

    y (tokens, d_out) and x (tokens, d_in); for each slice of y of a width, A (slots, 1, r, d_in) and B (slots, 1,
    width, r); rows (k,): the tokens that have a block; slots (k,): which.
    """
    picked = x[rows].unsqueeze(-1)  # (k, d_in, 1)
    begin = 0
    for A, B, width in zip(a_stacked, b_stacked, widths, strict=True):
        low = torch.bmm(A[slots, 0], picked.to(A.dtype))  # (k, r, 1)
        delta = torch.bmm(B[slots, 0], low).squeeze(-1) * scale  # (k, width)
        y[rows, begin : begin + width] += delta.to(y.dtype)
        begin += width


def patches() -> list[Patch]:
    """Return the changes to the CPU's kernels. On other devices they are never called."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU as Cpu

    return [
        Patch(Cpu, "update_metadata", "86f04c6554c626f1", _with_rows),
        Patch(Cpu, "_update_prefill_metadata", "0b50804d9014281d", lambda original: _nothing),
        Patch(Cpu, "add_lora_linear", "8fb021c914000f18", lambda original: _add_lora_linear),
        Patch(Cpu, "add_lora_embedding", "824613610b52b0c9", _refused),
        Patch(Cpu, "add_lora_logits", "3b92417da6382f86", _refused),
        Patch(Cpu, "apply_lora_full_linear", "4c0780a89351e257", _refused),
    ]


def _with_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_metadata(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        slots = self.token_lora_indices
        self.melo_rows = (slots >= 0).nonzero()[:, 0]
        self.melo_slots = slots[self.melo_rows]

    return update_metadata


def _nothing(self: Any, token_lora_tensor: Tensor) -> None:
    """Leave out the runs of equal tokens, which only the replaced kernels read."""


def _add_lora_linear(
    self: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: tuple[Tensor, ...],
    lora_b_stacked: tuple[Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    *,
    buffer: tuple[Tensor, ...] | None = None,
    **kwargs: Any,
) -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError("melo-vllm: start vLLM with --enforce-eager: which rows have a block differs in each step.")
    if len(self.melo_rows):
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        add_blocks(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, self.melo_rows, self.melo_slots)


def _refused(original: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"melo-vllm: blocks change linear layers alone, and vLLM called {original.__name__}. Name the layers that "
            "blocks change with --lora-target-modules."
        )

    return refuse
