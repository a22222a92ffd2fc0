"""A block: the low-rank change that one edit (or a few) makes to some linear layers."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from melo_core.errors import CorruptBlock

STORED_DTYPE = torch.float16
FORMAT = 1  # of the serialised bytes
_ALIGNMENT = 8  # bytes, to which safetensors fills its header up with blanks
_MODULE = re.compile(r"[\w-]{1,100}(\.[\w-]{1,100}){0,50}", re.ASCII)


@dataclass(frozen=True)
class Block:
    """A (r, d_in) and B (d_out, r) by module name, float16. On input x the effect is scale · (x Aᵀ) Bᵀ (MELO eq. 3)."""

    weights: dict[str, tuple[Tensor, Tensor]]
    scale: float

    @property
    def rank(self) -> int:
        return next(iter(self.weights.values()))[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Return the bytes of its tensors."""
        return sum(tensor.nbytes for pair in self.weights.values() for tensor in pair)

    def to_bytes(self) -> bytes:
        """Serialise as safetensors. The same block always gives the same bytes."""
        tensors = {}
        for name, (a, b) in self.weights.items():
            tensors[f"{name}.A"], tensors[f"{name}.B"] = a.contiguous(), b.contiguous()
        # A single metadata entry: safetensors writes several in no fixed order, and the digest would change.
        return save_safetensors(tensors, metadata={"block": json.dumps({"scale": self.scale, "format": FORMAT})})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Block":
        """Read the output of `to_bytes`. Raises CorruptBlock for anything that it would not write."""
        try:
            tensors = load_safetensors(data)  # first: it limits and checks the header
            written_header = data[8 : 8 + int.from_bytes(data[:8], "little")]
            header = json.loads(written_header, object_pairs_hook=_once)
            told = json.loads(header["__metadata__"]["block"], object_pairs_hook=_once)
            scale, written = told["scale"], told["format"]
        except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise CorruptBlock(f"these bytes are not a block: {error}") from error
        if type(written) is not int or written != FORMAT:
            raise CorruptBlock(
                f"the block has format {str(written)[:40]}, and this program reads {FORMAT}: a newer one wrote it"
            )
        if header["__metadata__"].keys() != {"block"} or told.keys() != {"scale", "format"}:
            raise CorruptBlock("these bytes are not a block: their metadata says more than a block's")
        if not isinstance(scale, float) or not abs(scale) <= torch.finfo(STORED_DTYPE).max:
            raise CorruptBlock("these bytes are not a block: its scale is no finite number that float16 holds")
        if len(written_header) - len(written_header.rstrip(b" ")) >= _ALIGNMENT:
            raise CorruptBlock("these bytes are not a block: their header is filled up")
        return cls(_paired(tensors), scale)

    @staticmethod
    def digest(data: bytes) -> str:
        """Return the SHA-256 of the stored bytes, in hex."""
        return hashlib.sha256(data).hexdigest()


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises ValueError for a name that occurs twice: parsers take different ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _paired(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B by module name. Raises CorruptBlock unless they are a block's, and nothing else is there."""
    names = sorted(name.removesuffix(".A") for name in tensors if name.endswith(".A"))
    if not names:
        raise CorruptBlock("these bytes are not a block: they hold no module")
    if strange := [name for name in names if not _MODULE.fullmatch(name)]:
        raise CorruptBlock(f"these bytes are not a block: {strange[0][:80]!r} is no module's name")
    expected = {f"{name}.{half}" for name in names for half in "AB"}
    if others := tensors.keys() ^ expected:
        raise CorruptBlock(f"these bytes are not a block: {sorted(others)[0][:80]!r} is not half of a pair A and B")
    rank = tensors[f"{names[0]}.A"].shape[0] if tensors[f"{names[0]}.A"].dim() else 0
    for name in names:
        a, b = tensors[f"{name}.A"], tensors[f"{name}.B"]
        if a.dim() != 2 or b.dim() != 2 or not a.shape[0] == b.shape[1] == rank or 0 in (*a.shape, *b.shape):
            raise CorruptBlock(
                f"these bytes are not a block: {name[:80]} has A {tuple(a.shape)} and B {tuple(b.shape)}, "
                f"which are not (r, d_in) and (d_out, r) for one rank r of the whole block"
            )
        if a.dtype != STORED_DTYPE or b.dtype != STORED_DTYPE or not (a.isfinite().all() and b.isfinite().all()):
            raise CorruptBlock(f"these bytes are not a block: {name[:80]} does not hold finite float16 numbers")
    return {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}


def initial_weights(seed: int, shapes: dict[str, tuple[int, int]], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return untrained A (r, d_in), uniform in ±1/√d_in, and B (d_out, r), zero, by module name.

    The seed belongs to one block, so its initial weights do not depend on the blocks it is trained with.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (d_in, d_out) in sorted(shapes.items()):
        a = torch.empty(rank, d_in).uniform_(-1, 1, generator=generator) / math.sqrt(d_in)
        weights[name] = (a, torch.zeros(d_out, rank))
    return weights


class BlockStack:
    """Many blocks as rows of stacked tensors, so that each request of a batch can use a different one."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        """Stack the blocks; fill those of lower rank, or without some module, with zeros."""
        self.size = len(blocks)
        rank = max((block.rank for block in blocks), default=0)
        shapes = {name: (a.shape[1], b.shape[0]) for block in blocks for name, (a, b) in sorted(block.weights.items())}
        self.stacked: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, (d_in, d_out) in shapes.items():
            A = torch.zeros(self.size, rank, d_in, dtype=STORED_DTYPE)
            B = torch.zeros(self.size, d_out, rank, dtype=STORED_DTYPE)
            scale = torch.tensor([block.scale for block in blocks])
            for i, block in enumerate(blocks):
                if name in block.weights:
                    a, b = block.weights[name]
                    A[i, : a.shape[0]], B[i, :, : b.shape[1]] = a, b
            self.stacked[name] = A, B, scale

    def gather(self, rows: Tensor, device: torch.device, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the blocks of `rows` (k,): by module, A (k, r, d_in) and s·B (k, d_out, r), ready to multiply."""
        return {
            name: (
                A[rows].to(device, dtype),
                (B[rows].float() * scale[rows, None, None]).to(device, dtype),
            )
            for name, (A, B, scale) in self.stacked.items()
        }
