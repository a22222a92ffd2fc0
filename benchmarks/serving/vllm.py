"""vLLM with the plugin melo-vllm, in an environment of its own: `make serve-vllm-test` installs it."""

import json
import os
import statistics
import subprocess
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.vllm_batch import Answered, Prompt, Request
from cli.errors import CommandError
from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of

Advance = Callable[[str, int, int], None]

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("MELO_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
# One thread, which gives the processor up while it waits; nothing outside this machine is asked.
QUIET = {
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "PYTHONPATH": "",
}  # fmt: skip


def is_installed() -> bool:
    return PYTHON.is_file()


def answered(request: Request, *, plugin: bool = True) -> list[Answered]:
    """Answer batches in a vLLM of their own. plugin: whether melo-vllm is loaded. Raises CommandError."""
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("vllm_batch.py"))],
        input=json.dumps(request),
        env=os.environ | QUIET | {"VLLM_PLUGINS": "melo" if plugin else "none", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise CommandError("vLLM did not run", done.stderr[-2000:], f"See whether {PYTHON} -c 'import vllm' works.")
    told: list[Answered] = json.loads(done.stdout.splitlines()[-1])
    return told


def encoded(blocks: Mapping[str, bytes]) -> dict[str, str]:
    return {digest: b64encode(data).decode() for digest, data in blocks.items()}


def measure_vllm(
    base: BaseModel,
    settings: MethodSettings,
    folder: Path,
    questions: Sequence[str],
    blocks: Sequence[Block],
    tokens: int,
    rounds: int,
    advance: Advance,
) -> dict[str, Any]:
    """Return vLLM's tokens per CPU second, a different block for each question, of those with LoRA off.

    folder: the model, as transformers writes it.
    """
    data = {Block.digest(content): content for content in (block.to_bytes() for block in blocks)}
    digests = list(data)
    speeds = {}
    for done, (name, slots) in enumerate((("vllm", 0), ("vllm, blocks", len(digests)))):
        advance("vLLM", done, 2)
        prompts: list[Prompt] = [
            {"ids": base.prompt_ids(question), "block": digests[i % len(digests)] if slots else None}
            for i, question in enumerate(questions)
        ]
        request: Request = {
            "model": str(folder),
            "modules": list(structure_of(base.model, settings).modules),
            "slots": slots,
            "tokens": tokens,
            "whole": True,
            "fresh": True,
            "blocks": encoded(data) if slots else {},
            "batches": [prompts] * (rounds + 1),  # the first one warms up
        }
        found = answered(request, plugin=bool(slots))[1:]
        speeds[name] = statistics.median(sum(map(len, each["tokens"])) / each["cpu_seconds"] for each in found)
    advance("vLLM", 2, 2)
    return {"vllm_ratio": speeds["vllm, blocks"] / speeds["vllm"], "vllm_tokens_per_cpu_second": speeds}
