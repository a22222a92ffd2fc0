"""The kernel: each row gets its own block's change, and rows without a block are left as they are."""

from types import SimpleNamespace

import pytest
import torch
from melo_vllm.cpu import _add_lora_linear, add_blocks


def test_rows_get_their_slot_and_others_nothing():
    torch.manual_seed(0)
    slots, rank, d_in, widths = 3, 2, 5, (4, 3)
    a = tuple(torch.randn(slots, 1, rank, d_in) for _ in widths)
    b = tuple(torch.randn(slots, 1, width, rank) for width in widths)
    x, y = torch.randn(6, d_in), torch.randn(6, sum(widths))
    of_row = {1: 2, 2: 0, 5: 2}  # rows 0, 3 and 4 have no block
    rows, wanted = torch.tensor(list(of_row)), y.clone()
    for row, slot in of_row.items():
        parts = [2.0 * B[slot, 0] @ (A[slot, 0] @ x[row]) for A, B in zip(a, b, strict=True)]
        wanted[row] += torch.cat(parts)
    before = y.clone()
    add_blocks(y, x, a, b, 2.0, widths, rows, torch.tensor(list(of_row.values())))
    torch.testing.assert_close(y, wanted)
    assert torch.equal(y[[0, 3, 4]], before[[0, 3, 4]])


def test_a_compiled_model_is_refused_since_it_would_keep_the_rows_of_its_first_step():
    metadata = SimpleNamespace(melo_rows=torch.tensor([0]), melo_slots=torch.tensor([0]))
    A, B = torch.ones(1, 1, 2, 3), torch.ones(1, 1, 4, 2)

    def step(y, x):
        _add_lora_linear(metadata, y, x, (A,), (B,), 1.0, (4,))
        return y

    assert step(torch.zeros(1, 4), torch.ones(1, 3)).eq(6).all()
    with pytest.raises(Exception, match="--enforce-eager"):
        torch.compile(step, backend="eager", fullgraph=True)(torch.zeros(1, 4), torch.ones(1, 3))
