"""Blocks as bytes."""

import pytest
import torch

from melo_core.block import Block, initial_weights
from melo_core.errors import CorruptBlock


def some_block() -> Block:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, generator=generator).half(), torch.randn(4, 2, generator=generator).half()
    return Block({"layers.3.down": (a, b), "layers.2.down": (b.mT.contiguous(), a.mT.contiguous())}, 0.5)


def test_a_block_survives_the_way_through_bytes_and_its_digest_is_fixed():
    block = some_block()
    data = block.to_bytes()
    read = Block.from_bytes(data)
    assert read.scale == 0.5 and read.rank == 2
    for name, halves in block.weights.items():
        assert all(torch.equal(x, y) for x, y in zip(halves, read.weights[name], strict=True))
    assert read.to_bytes() == data
    # Guards the stored form: a new one would make every stored digest look forged.
    assert Block.digest(data) == "b10fcc891186b735f8ce374160b92832703bdeeefe6906457010c4d9e52c26f6"


@pytest.mark.parametrize("spoilt", [b"", b"not a block", b"\xff" * 64, some_block().to_bytes()[:-7]])
def test_bytes_that_are_no_block_are_refused(spoilt):
    with pytest.raises(CorruptBlock, match="not a block"):
        Block.from_bytes(spoilt)


def test_a_block_of_a_newer_program_is_refused_by_its_format():
    newer = some_block().to_bytes().replace(rb"\"format\": 1", rb"\"format\": 2")
    with pytest.raises(CorruptBlock, match="format 2, and this program reads 1"):
        Block.from_bytes(newer)


def test_a_block_starts_without_effect_and_from_its_seed_alone():
    shapes = {"x": (8, 4), "y": (4, 4)}
    first, again, other = (initial_weights(seed, shapes, 2) for seed in (1, 1, 2))
    assert all(torch.equal(first[n][0], again[n][0]) and not first[n][1].any() for n in shapes)
    assert not torch.equal(first["x"][0], other["x"][0])
