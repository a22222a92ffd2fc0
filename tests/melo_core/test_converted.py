"""GGUF models in the cache: converted once, and read again only as they were written."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from melo_core.base_model import load_base_model
from melo_core.converted import Advance, converted, is_as_written
from tests.melo_core.gguf_file import write_gguf


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


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


def test_a_conversion_tells_how_many_tensors_are_done_and_reading_it_again_tells_nothing(gguf, tmp_path):
    told: list[tuple[int, int]] = []

    @contextmanager
    def converting() -> Iterator[Advance]:
        yield lambda done, total: told.append((done, total))

    for _ in range(2):
        load_base_model(gguf.parent, gguf.name, digest="d", cache=tmp_path, converting=converting)
    assert told == [(done, 12) for done in range(13)]
