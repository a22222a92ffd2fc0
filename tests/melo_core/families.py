"""A tiny randomly initialised model of any family."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from melo_core.families import ENCODER_DECODERS
from tests.melo_core.conftest import SPREAD

ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
CLASSIFIERS = ("bert", "camembert", "deberta-v2", "electra", "roberta", "xlm-roberta", "distilbert", "modernbert")
CLASSES = {0: "tax", 1: "privacy", 2: "labour"}
USUAL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
}  # fmt: skip
# Taken where a family has them: a cache believes in a window that the model does not look through.
PERHAPS: dict[str, Any] = {
    "sliding_window": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "top_k": 2, "moe_topk": 2, "moe_k": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32, "n_shared_experts": 1, "moe_num_shared_experts": 1, "num_shared_expert": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_start_index": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "intermediate_size_mlp": 64,
    "layer_types": None, "mlp_only_layers": [],
}  # fmt: skip
DECODER = {"d_model": 32, "max_position_embeddings": 256, "init_std": SPREAD}
SIDES = {
    f"{side}_{what}": number
    for side in ("encoder", "decoder")
    for what, number in (("layers", 4), ("attention_heads", 4), ("ffn_dim", 64))
}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 4, "num_heads": 4, "decoder_start_token_id": 0}
# Where a family's settings have names of their own, or must fit together.
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gpt2", "gpt_bigcode"), GPT),
    **dict.fromkeys(("gptj", "codegen"), GPT | {"rotary_dim": 4}),
    "gpt_neo": {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 16, "max_position_embeddings": 256,
                "attention_types": [[["global", "local"], 2]]},
    "mpt": {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 256},
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_kv_heads": 4,
               "multi_query": False, "alibi": False},
    "xglm": DECODER | {"ffn_dim": 64, "num_layers": 4, "attention_heads": 4},
    "dbrx": {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 256,
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
             "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32}},
    **dict.fromkeys(("t5", "mt5", "umt5"), T5),
    **dict.fromkeys(("mbart", "pegasus"), DECODER | SIDES | {"decoder_start_token_id": 0}),
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 4, "n_heads": 4, "max_position_embeddings": 256},
}  # fmt: skip
BESIDE: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": SPREAD},
    **{name: {"num_key_value_heads": 4} for name in ("deepseek_v2", "deepseek_v3")},
    "minicpm3": {"num_key_value_heads": 4, "head_dim": None},
    "gpt_neox": {"rotary_pct": 0.5},
    **{name: {"partial_rotary_factor": 0.5} for name in ("phi", "stablelm", "persimmon")},
}


def tiny_of(family: str, vocabulary: int) -> PreTrainedModel:
    """A few thousand parameters, the same at every call."""
    usual = AutoConfig.for_model(family)
    own = OWN.get(family)
    if own is None:
        perhaps = {name: value for name, value in PERHAPS.items() if hasattr(usual, name)}
        own = USUAL | perhaps | BESIDE.get(family, {})
    given = {"vocab_size": vocabulary, "initializer_range": SPREAD, **ENDS, **own}
    auto: Any = AutoModelForCausalLM
    if family in ENCODER_DECODERS:
        auto = AutoModelForSeq2SeqLM
    if family in CLASSIFIERS:
        auto = AutoModelForSequenceClassification
        given |= {"id2label": CLASSES, "label2id": {name: number for number, name in CLASSES.items()}}
        given |= {"num_labels": 3}
    torch.manual_seed(0)
    model: PreTrainedModel = auto.from_config(AutoConfig.for_model(family, **given))
    return model
