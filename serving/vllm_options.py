"""vLLM's options for the blocks of a base model's collections."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melo_core.base_model import BaseModel
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of
from registry.base.errors import InvalidRequest

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves room for


def options(
    base: BaseModel, name: str, folder: Path, methods: Sequence[MethodSettings], dtype: str, slots: int = 16
) -> dict[str, Any]:
    """Return vLLM's options for blocks of all these methods over one base model. Raises InvalidRequest."""
    acting = [method for method in methods if method.positions == "answer"]
    if not acting:
        raise InvalidRequest(
            f"No collection over {name} has blocks that act from the last prompt token on.",
            "In vLLM others are not used: serve them without --vllm.",
        )
    modules = {module for method in acting for module in structure_of(base.model, method).modules}
    rank = next(rank for rank in RANKS if rank >= max(method.rank for method in acting))
    return {
        "model": str(folder),
        "served-model-name": name,
        "max-model-len": base.window,
        "dtype": dtype,
        "enforce-eager": True,  # on a CPU the plugin needs it; on a GPU it was never run without
        "block-size": 32,  # tokens in a block of the prompt's cache; on a CPU a multiple of 32
        "enable-lora": True,
        "max-loras": slots,
        "max-cpu-loras": max(256, slots),
        "max-lora-rank": rank,
        "lora-target-modules": sorted(modules),
        "enable-prompt-tokens-details": True,
        "structured-outputs-config": {"backend": "guidance", "disable_any_whitespace": True},
    }
