"""Application of blocks: adds each request's low-rank change to the output of the edited layers."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from melo_core.errors import UnsupportedModel
from melo_core.settings import Positions


@contextmanager
def applied(
    modules: Mapping[str, nn.Module],
    weights: Mapping[str, tuple[Tensor, Tensor]],
    rows: Tensor | None,
    positions: Positions,
) -> Iterator[None]:
    """Add x Aᵀ Bᵀ to the edited layers' output while the context is open (MELO eq. 3).

    modules: the edited linear layers by name. weights: by the same names, A (k, r, d_in) and B (k, d_out, r),
    scale included. rows (k,): the rows of the batch that the weights belong to; None: all, in order. Nothing is added
    to other rows, so they keep the base model's output bit for bit.
    positions: `answer` acts from the last prompt token on: on the last position of a pass over several tokens
    (the prompt, padded on the left), and on each single token after it. `all` acts on every position.
    """
    with ExitStack() as hooks:
        for name, (A, B) in weights.items():
            hooks.enter_context(_hooked(name, modules[name], A, B, rows, positions))
        yield


@contextmanager
def _hooked(
    name: str, module: nn.Module, A: Tensor, B: Tensor, rows: Tensor | None, positions: Positions
) -> Iterator[None]:
    def add(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = inputs[0]  # (batch, tokens, d_in)
        if x.dim() != 3:
            raise UnsupportedModel(
                f"{name} gets all prompts' tokens in one row, so a block cannot tell prompts apart; name other modules"
            )
        start = x.shape[1] - 1 if positions == "answer" else 0
        x = x[:, start:] if rows is None else x[rows, start:]  # (k, t, d_in)
        delta = (x.to(A.dtype) @ A.mT @ B.mT).to(out.dtype)  # (k, t, d_out)
        if rows is None and start == 0:
            return out + delta
        out = out.clone()
        if rows is None:
            out[:, start:] += delta
        else:
            out[rows, start:] = out[rows, start:] + delta
        return out

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (d_in, d_out) of a linear layer (nn.Linear, or GPT-2's Conv1D with its transposed weight), else None."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, torch.Tensor):
        return weight.shape[0], weight.shape[1]
    return None
