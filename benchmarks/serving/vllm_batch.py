"""Runs in vLLM's environment: answers batches of prompts, one after another, each prompt with its own block.

    python vllm_batch.py < request.json

request: `Request`, as JSON. The last line of the output: a list with an `Answered` for each batch.
"""

import json
import sys
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any, TypedDict


class Prompt(TypedDict):
    ids: list[int]
    block: str | None  # its digest


class Request(TypedDict):
    model: str  # a folder
    modules: list[str]  # the layers that blocks change
    slots: int  # 0: LoRA is off
    tokens: int
    whole: bool  # as many tokens in each answer, whatever they are
    fresh: bool  # nothing is known of earlier batches
    blocks: dict[str, str]  # bytes in base 64, by digest
    batches: list[list[Prompt]]


class Answered(TypedDict):
    tokens: list[list[int]]
    cached: list[int]  # of each prompt's tokens, those that were not computed
    cpu_seconds: float  # of this process, in which everything runs


def main() -> None:
    asked: Request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        print("\n" + json.dumps(answered(asked, Path(folder))))


def answered(asked: Request, folder: Path) -> list[Answered]:
    from vllm import LLM, SamplingParams

    lora = {
        "enable_lora": True,
        "max_loras": asked["slots"],
        "max_lora_rank": 8,
        "max_cpu_loras": max(len(asked["blocks"]), asked["slots"]),
        "lora_target_modules": asked["modules"],
    }
    model = LLM(
        asked["model"],
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=32,
        block_size=32,
        enforce_eager=True,
        **(lora if asked["slots"] else {}),
    )
    adapters = adapters_of(asked["blocks"], folder)
    greedy = SamplingParams(temperature=0, max_tokens=asked["tokens"], ignore_eos=asked["whole"])
    told: list[Answered] = []
    for batch in asked["batches"]:
        if asked["fresh"]:
            model.reset_prefix_cache()
        began = time.process_time()
        found = model.generate(
            [{"prompt_token_ids": prompt["ids"]} for prompt in batch],
            greedy,
            lora_request=[adapters[prompt["block"]] for prompt in batch] if asked["slots"] else None,
            use_tqdm=False,
        )
        spent = time.process_time() - began
        tokens = [list(each.outputs[0].token_ids) for each in found]
        told.append({"tokens": tokens, "cached": [each.num_cached_tokens or 0 for each in found], "cpu_seconds": spent})
    return told


def adapters_of(blocks: dict[str, str], folder: Path) -> dict[str | None, Any]:
    """Return vLLM's requests for blocks by digest, and None for none."""
    from melo_vllm.blocks import write_adapter
    from vllm.lora.request import LoRARequest

    adapters: dict[str | None, Any] = {None: None}
    for number, (digest, data) in enumerate(blocks.items(), 1):
        place = folder / digest
        place.mkdir()
        write_adapter(b64decode(data), digest, "base", place)
        adapters[digest] = LoRARequest(digest, number, str(place))
    return adapters


if __name__ == "__main__":
    main()
