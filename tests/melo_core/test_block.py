"""Blocks as bytes."""

import json
import math

import pytest
import torch
from safetensors.torch import save

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


METADATA = '{"scale": 1.0, "format": 1}'


def written(tensors: dict[str, torch.Tensor] | None = None, block: str = METADATA, **more) -> bytes:
    whole = {"x.A": torch.ones(2, 8).half(), "x.B": torch.ones(4, 2).half()}
    return save(whole | (tensors or {}), metadata={"block": block, **more})


def half(*shape: int, value: float = 1.0) -> torch.Tensor:
    return torch.full(shape, value).half()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x.A": half(2, 8, value=math.nan)}, "finite"),
        ({"x.B": half(4, 2, value=-math.inf)}, "finite"),
        ({"x.A": torch.ones(2, 8)}, "float16"),
        ({"x.C": half(2, 8)}, "not half of a pair"),
        ({"y.B": half(2, 8)}, "not half of a pair"),
        ({"y.A": half(2, 8)}, "not half of a pair"),
        ({"bias": half(8)}, "not half of a pair"),
        ({"x.A": half(3, 8)}, "one rank r"),
        ({"y.A": half(1, 8), "y.B": half(4, 1)}, "one rank r"),
        ({"x.A": half(2, 8, 1)}, "one rank r"),
        ({"x.A": half(2)}, "one rank r"),
        ({"x.A": half()}, "one rank r"),
        ({"x.A": half(0, 8), "x.B": half(4, 0)}, "one rank r"),
    ],
)
def test_a_block_holds_finite_pairs_of_one_rank_and_nothing_else(tensors, said):
    assert Block.from_bytes(written()).rank == 2
    with pytest.raises(CorruptBlock, match=said):
        Block.from_bytes(written(tensors))


@pytest.mark.parametrize(
    "block",
    [
        *(METADATA.replace("1.0", scale) for scale in ("NaN", "-Infinity", "1e999", '"1"', "true", "null", "[1]")),
        METADATA.replace("1.0", f"1{'0' * 400}"),
        '{"scale": 1.0, "format": 1, "more": 1}',
        '{"scale": 1.0, "scale": 1.0, "format": 1}',
        '{"scale": 1e39, "format": 1}',
        '{"scale": 1.0, "format": true}',
        '{"scale": 1.0, "format": 1.0}',
        '{"scale": 1.0, "format": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "[" * 100_000,
        "[]",
        "1",
    ],
)
def test_metadata_that_no_block_is_written_with_is_refused(block):
    with pytest.raises(CorruptBlock, match=r"not a block|format"):
        Block.from_bytes(written(block=block))


def test_a_header_that_says_more_or_is_too_deep_or_too_long_is_refused():
    with pytest.raises(CorruptBlock, match="metadata says more"):
        Block.from_bytes(written(more="x"))
    for header in (b'{"a":' * 100_000, b"{}", json.dumps({"__metadata__": {"block": 1}}).encode()):
        with pytest.raises(CorruptBlock, match="not a block"):
            Block.from_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CorruptBlock, match="not a block"):
        Block.from_bytes((2**64 - 1).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize("name", ["", "../x", "/etc/x", "x.", "a..b", "x\0", "\x1b[31m", "\u202ex", "x" * 200])
def test_a_modules_name_is_a_path_of_words(name):
    with pytest.raises(CorruptBlock, match="no module's name"):
        Block.from_bytes(written({f"{name}.A": half(2, 8), f"{name}.B": half(4, 2)}))


def test_a_header_that_names_a_tensor_twice_or_is_filled_up_is_refused():
    data = written()
    size = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + size].rstrip(), data[8 + size :]
    again = json.dumps(json.loads(header)["x.A"])
    for other in (header[:-1] + f',"x.A":{again}}}'.encode(), header + b" " * 800):
        with pytest.raises(CorruptBlock, match=r"a name occurs twice|filled up"):
            Block.from_bytes(len(other).to_bytes(8, "little") + other + tensors)


def test_a_block_of_a_newer_program_is_refused_by_its_format():
    newer = some_block().to_bytes().replace(rb"\"format\": 1", rb"\"format\": 2")
    with pytest.raises(CorruptBlock, match="format 2, and this program reads 1"):
        Block.from_bytes(newer)


def test_a_block_starts_without_effect_and_from_its_seed_alone():
    shapes = {"x": (8, 4), "y": (4, 4)}
    first, again, other = (initial_weights(seed, shapes, 2) for seed in (1, 1, 2))
    assert all(torch.equal(first[n][0], again[n][0]) and not first[n][1].any() for n in shapes)
    assert not torch.equal(first["x"][0], other["x"][0])
