"""Runs in vLLM's environment: answers batches of prompts, one after another, each prompt with its own adapter.

    python batch.py < request.json > answer.json

request: model (folder), modules, slots, tokens, blocks {digest: bytes in base 64}, batches [[{ids, block: digest or
null}]].
answer: tokens and cached, for each prompt of each batch.
"""

import json
import sys
import tempfile
from base64 import b64decode
from pathlib import Path

from melo_vllm.blocks import write_adapter
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    asked = json.load(sys.stdin)
    model = LLM(
        asked["model"], dtype="float32", max_model_len=1024, max_num_seqs=32, block_size=32, enforce_eager=True,
        enable_lora=True, max_loras=asked["slots"], max_lora_rank=8, lora_target_modules=asked["modules"],
    )  # fmt: skip
    adapters = {None: None}
    for number, (digest, data) in enumerate(asked["blocks"].items(), 1):
        folder = Path(tempfile.mkdtemp(prefix="adapter-"))
        write_adapter(b64decode(data), digest, "base", folder)
        adapters[digest] = LoRARequest(digest, number, str(folder))
    greedy = SamplingParams(temperature=0, max_tokens=asked["tokens"])
    told = []
    for batch in asked["batches"]:
        found = model.generate(
            [{"prompt_token_ids": prompt["ids"]} for prompt in batch],
            greedy,
            lora_request=[adapters[prompt["block"]] for prompt in batch],
            use_tqdm=False,
        )
        told.append(
            [{"tokens": list(each.outputs[0].token_ids), "cached": each.num_cached_tokens or 0} for each in found]
        )
    print("\n" + json.dumps(told))


if __name__ == "__main__":
    main()
