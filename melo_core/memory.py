"""Memory: what training needs, what is free, and smaller batches when memory runs out."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from melo_core.base_model import BaseModel
from melo_core.errors import MeloError
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of

Note = Callable[[str], None]  # receives a message for the user
MB = 1_000_000
CGROUP = Path("/sys/fs/cgroup")
# Messages of allocators: CUDA's and Apple's, torch's own on the CPU, and C++.
MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc")


def memory_needed(base: BaseModel, settings: MethodSettings, lengths: Sequence[Sequence[tuple[int, int]]]) -> int:
    """Estimate the bytes that training these blocks together takes at its peak, besides the model.

    lengths: for each block, the tokens of each example's prompt and of its target.
    """
    structure, config = structure_of(base.model, settings), base.model.config.get_text_config()
    rows = [row for block in lengths for row in block]
    n, prompt, target = len(rows), max(p for p, _ in rows), max(t for _, t in rows)
    item, d = base.model.dtype.itemsize, config.hidden_size
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or d // heads)
    kept = width * (getattr(config, "num_key_value_heads", None) or heads) // heads  # of the keys, and of the values
    layers, edited = len(structure.layers), len(structure.layers) - structure.first
    d_in = max(shape[0] for shape in structure.shapes.values())

    numbers = settings.rank * sum(map(sum, structure.shapes.values()))
    # Per block: parameters, gradients, Adam's two moments and its two intermediates. Per example: A, B and s·B in
    # place, and their gradients. All in float32.
    weights = 4 * numbers * (6 * len(lengths) + 5 * n)

    match base.kind, settings.positions:
        case (Kind.CLASSIFIER, _):
            stepped, seen, remembered, labelled = prompt, prompt, 0, n
        case (Kind.SEQ2SEQ, _):
            stepped, seen, remembered, labelled = target, target + prompt, prompt * d, sum(t for _, t in rows)
        case (_, "all"):
            stepped, seen, remembered, labelled = prompt + target, prompt + target, 0, sum(t for _, t in rows)
        case _:
            stepped, seen, labelled = target, prompt + target, sum(t for _, t in rows)
            remembered = 2 * prompt * kept * layers  # keys and values
    head = base.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    vocabulary = len(base.model.config.id2label or ()) if base.kind is Kind.CLASSIFIER else head.weight.shape[0]
    # Kept by the edited layers for the backward pass: hidden states, MLP activations, attention keys, values, weights.
    activations = stepped * (8 * d + 5 * d_in) * item + 2 * seen * (width + kept) * item + 4 * heads * stepped * seen
    logits = labelled * vocabulary * (12 if item == 4 else 12 + 2 * item)  # with their log-probabilities and gradients
    step = n * edited * activations + logits
    once = n * prompt * (4 * d + 3 * d_in) * item  # a frozen layer running on the whole prompts
    return int(weights + n * (remembered + stepped * d) * item + max(step, once))


def free_memory(device: torch.device) -> int:
    """Return the bytes that may still be allocated: of the GPU, or of the machine or container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min(psutil.virtual_memory().available, _free_in_container())


def _free_in_container() -> int:
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(counts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no cgroups v2, or no limit
        return sys.maxsize


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocator reports that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(message in str(error).lower() for message in MESSAGES)
    )


def in_parts(
    items: Sequence[int], size: int, what: str, work: Callable[[Sequence[int]], None], on_note: Note | None
) -> None:
    """Call `work` on the items, `size` at a time; halve the size each time that memory runs out.

    Raises MeloError where memory does not suffice for one.
    """
    start = 0
    while start < len(items):
        part = items[start : start + size]
        if _done(work, part):
            start += len(part)
            continue
        # Outside the except block, where the error and everything that it referenced is freed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(part) == 1:
            raise MeloError(
                f"out of memory with one {what} alone; free memory, load the model in half precision, shorten the "
                "prompts, or take fewer layers or a lower rank"
            )
        size = len(part) // 2
        if on_note:
            on_note(f"out of memory with {len(part)} {what}s together: going on with {size}")


def _done(work: Callable[[Sequence[int]], None], part: Sequence[int]) -> bool:
    try:
        work(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
