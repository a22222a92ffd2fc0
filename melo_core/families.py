"""Model families: where a block acts in each, and why it cannot act in others. Nothing here needs torch.

A family is what a model's config.json calls `model_type`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from melo_core.errors import UnsupportedModel

Tested = Literal["real weights", "tiny random"]


@dataclass(frozen=True)
class Family:
    """Where blocks act in the layers of a family, and on which models that is tested.

    modules: linear layers by their name within a layer; the first that a layer has carries its block. Each gets one
    row for each token of each prompt, which experts and what lies behind flattened batches do not.
    """

    modules: tuple[str, ...]
    tested: Tested = "tiny random"


def _each(names: str, *modules: str) -> dict[str, Family]:
    return {name: Family(modules) for name in names.split()}


SHARED, ATTENTION = "mlp.shared_experts.down_proj", "self_attn.o_proj"
FAMILIES: Mapping[str, Family] = {
    # The output of the MLP.
    **_each(
        "apertus arcee cohere cohere2 diffllama ernie4_5 exaone4 gemma gemma2 glm glm4 granite helium hunyuan_v1_dense "
        "minicpm3 ministral ministral3 mistral nemotron olmo olmo2 olmo3 phi3 qwen2 qwen3 seed_oss smollm3 stablelm "
        "vaultgemma",
        "mlp.down_proj",
    ),
    "llama": Family(("mlp.down_proj",), "real weights"),
    "gemma3_text": Family(("mlp.down_proj",), "real weights"),
    **_each("gpt2 gpt_bigcode gpt_neo starcoder2", "mlp.c_proj"),
    **_each("codegen gptj", "mlp.fc_out"),
    **_each("bloom falcon gpt_neox persimmon", "mlp.dense_4h_to_h"),
    **_each("phi", "mlp.fc2"),
    **_each("mpt", "ffn.down_proj"),
    **_each("biogpt xglm", "fc2"),
    # The output of the experts that see every token, and of the MLP in layers without experts.
    **_each("deepseek_v2 deepseek_v3 dots1 glm4_moe", SHARED, "mlp.down_proj"),
    **_each("hunyuan_v1_moe", "mlp.shared_mlp.down_proj"),
    **_each("granitemoeshared", "shared_mlp.output_linear"),
    # The output of attention, where every expert sees some tokens alone or the MLP gets all prompts' tokens in a row.
    **_each(
        "ernie4_5_moe flex_olmo gpt_oss granitemoe llama4_text minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe",
        ATTENTION,
    ),
    **_each("opt", "self_attn.out_proj"),
    **_each("dbrx", "norm_attn_norm.attn.out_proj"),
    # Encoder-decoders, in the decoder.
    **_each("mt5 t5 umt5", "layer.2.DenseReluDense.wo"),
    **_each("mbart pegasus", "fc2"),
    # Classifiers.
    **_each("bert camembert deberta-v2 electra roberta xlm-roberta", "output.dense"),
    **_each("distilbert", "ffn.lin2"),
    **_each("modernbert", "mlp.Wo"),
}

# Their attention counts columns, padding included: none may stand within a prompt.
BY_COLUMN = frozenset({"gpt_neo", "mpt"})

RECURRENT = "it keeps one state of all that it read instead of keys and values of each token"
HYBRID = "some of its layers keep one state of all that they read instead of keys and values of each token"
UNCACHED = "transformers keeps no keys and values for it"


def _because(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


REFUSED: Mapping[str, str] = {
    **_because(RECURRENT, "falcon_mamba mamba mamba2 rwkv xlstm"),
    **_because(
        HYBRID,
        "bamba falcon_h1 granitemoehybrid jamba kimi_linear lfm2 lfm2_moe minimax nemotron_h olmo_hybrid qwen3_5 "
        "qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next recurrent_gemma zamba zamba2",
    ),
    **_because(UNCACHED, "openai-gpt reformer xlnet"),
    **_because("its attention is split into experts, each of which sees some tokens alone", "jetmoe"),
    **_because("all of its layers share one set of weights, so a block cannot act in the last ones alone", "albert"),
    **_because(
        "its weights have three values each, and a block trained beside them is not what it would run", "bitnet"
    ),
}

# Architectures of GGUF files that transformers converts, as the files name them, and their families.
_AS_FAMILIES = "bloom falcon gemma2 gpt2 lfm2 llama mamba mistral nemotron phi3 qwen2 qwen3 stablelm starcoder2"
GGUF: Mapping[str, str] = {name: name for name in _AS_FAMILIES.split()} | {
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
}
CAUSAL, CLASSIFIER, SEQ2SEQ = ("ForCausalLM", "LMHeadModel"), "ForSequenceClassification", "ForConditionalGeneration"
ENCODER_DECODERS = frozenset({"mbart", "mt5", "pegasus", "t5", "umt5"})


def takes_gaps(family: str) -> bool:
    """Tell whether padding may stand within a prompt, as where many have one beginning, and changes nothing."""
    return family in FAMILIES and family not in BY_COLUMN


def require_editable(config: Mapping[str, Any], modules: Sequence[str] = ()) -> None:
    """Raise UnsupportedModel, with the reason, where a block cannot act in a model of this configuration.

    config: of config.json; of a GGUF file, its architecture as `gguf`. modules: linear layers that the settings name; a
    family that is not known is taken with them alone.
    """
    family = config.get("model_type")
    if "gguf" in config:
        family = GGUF.get(str(config["gguf"]))
        if family is None:
            raise UnsupportedModel(
                f"GGUF files of the architecture {config['gguf']} are not read, only those of "
                f"{', '.join(sorted(GGUF))}. Take the model's folder with config.json and *.safetensors"
            )
    elif not isinstance(family, str) or not family:
        raise UnsupportedModel("config.json names no model_type, so nobody can tell what the weights are")
    elif quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "quantised") if isinstance(quantised, Mapping) else "quantised"
        raise UnsupportedModel(
            f"the weights are quantised ({method}), and blocks train beside plain ones; take the model as it was "
            "before, or a GGUF file, which is converted"
        )
    else:
        _require_task(family, config.get("architectures"))
    if family in REFUSED:
        raise UnsupportedModel(f"a model of the family {family} cannot carry a block: {REFUSED[family]}")
    if family not in FAMILIES and not modules:
        raise UnsupportedModel(
            f"{family} is not one of the families for which it is known where a block acts: "
            f"{', '.join(sorted(FAMILIES))}. If you know its linear layers, name those to edit with the method "
            "setting modules"
        )


def _require_task(family: str, architectures: object) -> None:
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    generates = family in ENCODER_DECODERS and str(named).endswith((SEQ2SEQ, *CAUSAL))
    if named and not generates and not str(named).endswith((*CAUSAL, CLASSIFIER)):
        raise UnsupportedModel(f"{named} is not a causal LM, an encoder-decoder or a classifier")
