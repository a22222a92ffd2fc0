"""Blocks as the registry stores them, and as vLLM loads them: a folder in PEFT's form."""

import asyncio
import hashlib
import json
import shutil
import tempfile
import weakref
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = 1  # of the registry's bytes: NAME.A (r, d_in) and NAME.B (d_out, r), and metadata {"block": {scale, format}}
KEPT_SECONDS = 3600.0  # after a name is unloaded: a request that has it may still wait, and vLLM reads the files again


class CorruptBlock(ValueError):
    """The bytes are not the block that was asked for."""


class FolderFull(RuntimeError):
    """There is no room for another block."""


def write_adapter(data: bytes, sha256: str, base_model: str, folder: Path) -> None:
    """Write a block's bytes, compared with their digest, as a PEFT adapter. Raises CorruptBlock."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CorruptBlock(f"block {sha256}: the bytes that came have the digest {found}")
    plain = folder / "block.safetensors"
    plain.write_bytes(data)
    try:
        with safe_open(plain, "pt") as stored:
            told = json.loads((stored.metadata() or {})["block"])
            scale, written = float(told["scale"]), told["format"]
            names = sorted(name.removesuffix(".A") for name in stored.keys() if name.endswith(".A"))  # noqa: SIM118
            pairs = {name: (stored.get_tensor(f"{name}.A"), stored.get_tensor(f"{name}.B")) for name in names}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptBlock(f"block {sha256} cannot be read: {error}") from error
    finally:
        plain.unlink()
    if written != FORMAT or not pairs:
        raise CorruptBlock(f"block {sha256} has the format {written}, and this melo-vllm reads {FORMAT}")
    rank = next(iter(pairs.values()))[0].shape[0]
    tensors = {}
    for name, (a, b) in pairs.items():
        if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
            raise CorruptBlock(f"block {sha256}: A {tuple(a.shape)} and B {tuple(b.shape)} of {name} do not fit")
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": scale * rank,  # PEFT multiplies by lora_alpha / r
        "target_modules": list(pairs),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


class Adapters:
    """A folder of adapters by digest. It is this server's alone: what lies in it was compared with its digest.

    vLLM reads an adapter again when it needs one that it has put out of memory, so an adapter stays until its name was
    unloaded, and for a while after that.
    """

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        """folder: emptied at the start; None: a temporary one, removed at the end."""
        self._most, self._sizes = most_bytes, dict[str, int]()
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        if folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="melo-blocks-"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            self.folder = folder
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @property
    def held(self) -> int:
        """Return the bytes of all."""
        return sum(self._sizes.values())

    def find(self, sha256: str) -> Path | None:
        """Return an adapter that is there, and keep it."""
        if sha256 not in self._sizes:
            return None
        if sha256 in self._leaving:
            self._leaving.pop(sha256).cancel()
        return self.folder / sha256

    def put(self, data: bytes, sha256: str, base_model: str) -> Path:
        """Return where the adapter of these bytes lies: its digest says. Raises CorruptBlock, FolderFull."""
        if self.held + len(data) > self._most:
            raise FolderFull(
                f"block {sha256}: {len(self._sizes)} blocks take {self.held >> 20} MB already; raise MELO_BLOCKS_MB "
                "or unload names that are not used (POST /v1/unload_lora_adapter)"
            )
        place = self.folder / sha256
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            part = Path(scratch) / "adapter"
            part.mkdir()
            write_adapter(data, sha256, base_model, part)
            part.rename(place)
        self._sizes[sha256] = len(data)
        return place

    def release(self, sha256: str, seconds: float = KEPT_SECONDS) -> None:
        """Remove an adapter after a while, unless it is wanted again until then."""
        if sha256 in self._sizes and sha256 not in self._leaving:
            self._leaving[sha256] = asyncio.get_running_loop().call_later(seconds, self._remove, sha256)

    def _remove(self, sha256: str) -> None:
        self._leaving.pop(sha256, None)
        self._sizes.pop(sha256, None)
        shutil.rmtree(self.folder / sha256, ignore_errors=True)
