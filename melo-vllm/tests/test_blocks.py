"""Blocks become adapters only if they are the bytes that their name says."""

import asyncio
import hashlib
import json

import pytest
import torch
from melo_vllm.blocks import Adapters, CorruptBlock, FolderFull, write_adapter
from safetensors.torch import load_file, save

NAME = "model.layers.3.mlp.down_proj"


def block(scale=2.0, rank=2, form=1, **more):
    """A block as the registry stores it: its bytes and digest."""
    tensors = {f"{NAME}.A": torch.ones(rank, 6).half(), f"{NAME}.B": torch.full((4, 2), 0.5).half(), **more}
    data = save(tensors, metadata={"block": json.dumps({"scale": scale, "format": form})})
    return data, hashlib.sha256(data).hexdigest()


def test_an_adapter_has_the_blocks_weights_and_its_scale(tmp_path):
    write_adapter(*block(scale=0.5), "base", tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["lora_alpha"] / settings["r"] == 0.5
    assert (settings["r"], settings["target_modules"]) == (2, [NAME])
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert weights[f"base_model.model.{NAME}.lora_A.weight"].shape == (2, 6)
    assert weights[f"base_model.model.{NAME}.lora_B.weight"].eq(0.5).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize(
    "bad",
    [
        (block()[0] + b"x", block()[1]),
        (b"no safetensors", hashlib.sha256(b"no safetensors").hexdigest()),
        block(form=2),
        block(rank=3),
        block(**{"other.A": torch.ones(2, 2)}),
    ],
    ids=["other bytes", "no safetensors", "a later format", "A and B that do not fit", "half a pair"],
)
def test_what_is_not_the_block_is_refused_and_leaves_nothing(tmp_path, bad):
    adapters = Adapters(tmp_path / "blocks", 1 << 20)
    with pytest.raises(CorruptBlock, match=bad[1]):
        adapters.put(*bad, "base")
    assert list(adapters.folder.iterdir()) == []
    assert adapters.find(bad[1]) is None


def test_the_folder_has_a_limit(tmp_path):
    data, digest = block()
    adapters = Adapters(tmp_path / "blocks", len(data))
    assert adapters.put(data, digest, "base") == adapters.find(digest)
    with pytest.raises(FolderFull, match="MELO_BLOCKS_MB"):
        adapters.put(*block(scale=3.0), "base")


def test_an_unloaded_adapter_goes_after_a_while_unless_it_is_wanted_again(tmp_path):
    async def run():
        adapters = Adapters(tmp_path / "blocks", 1 << 20)
        gone, kept = block(), block(scale=3.0)
        for each in (gone, kept):
            adapters.put(*each, "base")
            adapters.release(each[1], seconds=0.01)
        assert adapters.find(kept[1]) is not None
        while adapters.find(gone[1]) is not None and (adapters.folder / gone[1]).exists():
            adapters.release(gone[1], seconds=0)
            await asyncio.sleep(0.01)
        assert (adapters.folder / kept[1]).is_dir()
        assert adapters.held == len(kept[0])

    asyncio.run(run())


def test_what_an_earlier_server_left_in_the_folder_is_not_used(tmp_path):
    digest = block()[1]
    (tmp_path / "blocks" / digest).mkdir(parents=True)
    assert Adapters(tmp_path / "blocks", 1 << 20).find(digest) is None
    assert not (tmp_path / "blocks" / digest).exists()
