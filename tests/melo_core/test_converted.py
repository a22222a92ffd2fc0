"""GGUF models in the cache: converted once, and read again only as they were written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from melo_core.base_model import load_base_model
from melo_core.converted import converted, is_as_written

WIDTH, INNER, LETTERS = 32, 64, "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    """A tiny Llama with a byte-level tokenizer of letters, as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    tokens = ["<s>", "</s>", *LETTERS, "ab"]
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    numbers = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), WIDTH),
        "output": (len(tokens), WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    shapes |= {f"blk.0.{name}": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
    shapes |= {f"blk.0.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", numbers.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(gguf: Path, cache: Path) -> dict[str, torch.Tensor]:
    state = load_base_model(gguf.parent, gguf.name, digest="d", cache=cache).model.state_dict()
    return {name: each.clone() for name, each in state.items()}  # not mapped to the file, which the test spoils


def test_a_converted_model_that_is_not_what_was_written_is_converted_again(gguf, tmp_path):
    first = weights(gguf, tmp_path)
    folder = tmp_path / "d"
    assert is_as_written(folder)
    written = (folder / "model.safetensors").stat()
    weights(gguf, tmp_path)
    assert (folder / "model.safetensors").stat().st_ino == written.st_ino  # read again, not converted again

    def flip() -> None:
        raw = bytearray((folder / "model.safetensors").read_bytes())
        raw[-1] ^= 1
        (folder / "model.safetensors").write_bytes(raw)

    for spoil in (
        flip,
        lambda: (folder / "model.safetensors").write_bytes(b"cut off"),
        lambda: (folder / "tokenizer.json").unlink(),
        lambda: (folder / "adapter_config.json").write_text("{}"),
        lambda: (folder / "melo-digests.json").unlink(),
        lambda: (folder / "melo-digests.json").write_text("[" * 100_000),
        lambda: (folder / "more").mkdir(),
    ):
        spoil()
        assert not is_as_written(folder)
        again = weights(gguf, tmp_path)
        assert is_as_written(folder)
        assert all(torch.equal(again[name], first[name]) for name in first)
    assert [each.name for each in tmp_path.iterdir()] == ["d"]


def test_the_digests_cover_every_file(gguf, tmp_path):
    folder = converted(gguf.parent, gguf.name, tmp_path / "d")
    named = json.loads((folder / "melo-digests.json").read_text())
    assert named.keys() | {"melo-digests.json"} == {each.name for each in folder.iterdir()}


CONVERT = """
import sys
from pathlib import Path
from melo_core.base_model import load_base_model

load_base_model(Path(sys.argv[1]).parent, "tiny.gguf", digest="d", cache=Path(sys.argv[2]))
"""


def test_a_conversion_writes_nothing_into_a_log(gguf, tmp_path):
    logged = subprocess.run([sys.executable, "-c", CONVERT, gguf, tmp_path / "a"], capture_output=True, check=True)
    assert (logged.stdout, logged.stderr) == (b"", b"")
