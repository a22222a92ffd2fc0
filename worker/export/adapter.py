"""A block as a PEFT adapter: its tensors, its configuration, and the token from which activated LoRA acts."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save as save_safetensors
from torch import nn

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.structure import Kind

# A classifier has none: PEFT's SEQ_CLS would add a copy of the model's head to the adapter.
TASKS = {Kind.CAUSAL: "CAUSAL_LM", Kind.SEQ2SEQ: "SEQ_2_SEQ_LM", Kind.CLASSIFIER: None}
PROBES = ("Who?", "Say it", "in 1999", 'He said "yes."', "a\n", "…")  # questions that end in different tokens


def tensors_of(block: Block) -> bytes:
    """Return `adapter_model.safetensors`: A (r, d_in) and B (d_out, r) under PEFT's names, float16 as in the record."""
    tensors = {}
    for name, (a, b) in block.weights.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    return save_safetensors(tensors, metadata={"format": "pt"})


def config_of(
    block: Block, model: str, kind: Kind, modules: Mapping[str, nn.Module], invocation: int | None = None
) -> dict[str, Any]:
    """Return `adapter_config.json`.

    PEFT adds lora_alpha / r · (x Aᵀ) Bᵀ to a module's output: with lora_alpha = scale · r the block's own effect.
    modules: the model's edited linear layers by name. invocation: the token from which activated LoRA acts; None:
    ordinary LoRA, at all positions.
    """
    ranks = {name: a.shape[0] for name, (a, _) in sorted(block.weights.items())}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    other = {name: r for name, r in ranks.items() if r != rank}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": TASKS[kind],
        "base_model_name_or_path": model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _alpha(block.scale, rank),
        "rank_pattern": other,
        "alpha_pattern": {name: _alpha(block.scale, r) for name, r in other.items()},
        "target_modules": list(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        # GPT-2's Conv1D keeps its own weight transposed; A and B are the same for both.
        "fan_in_fan_out": any(type(modules[name]).__name__ == "Conv1D" for name in ranks),
        "use_rslora": False,
        "use_dora": False,
    }
    return config if invocation is None else config | {"alora_invocation_tokens": [invocation]}


def _alpha(scale: float, rank: int) -> float:
    """Return lora_alpha, as a whole number where it is one: some programs read no other."""
    alpha = scale * rank
    return int(alpha) if alpha.is_integer() else alpha


def last_token_of_questions(base: BaseModel) -> int | None:
    """Return the token that ends every question to the model, whatever is asked; None where there is no such token.

    Activated LoRA acts from the last occurrence of its invocation tokens on, and a block from the last prompt token on.
    Invoked by that one token, the adapter does what the block does.
    """
    if not base.chats:
        return None
    ends = {base.prompt_ids(probe)[-1] for probe in PROBES}
    return ends.pop() if len(ends) == 1 else None
