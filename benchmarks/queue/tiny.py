"""The bench's model and edits: a random model of some fifty thousand weights, and corrections of numbered questions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from melo_core.base_model import save_model

WINDOW = 256
# The output layer must tell tokens apart, which an untrained one of the usual spread cannot learn to.
SPREAD = 0.3

# Keys from the model itself are nearly free. The bench measures how processes die and what the queue adds, not scope,
# so the radius is small enough that no two prompts meet.
KEYS = {"layers": 2, "key_encoder": "hidden", "key_layer": 2, "whitened": False, "radius": 1e-3}
WHOLE = KEYS  # otherwise a collection's default settings
# A few steps: in a round of faults, what a block has learned does not matter.
SHORT = {"rank": 2, "iterations": 6, "loss_target": 0, "rounds": 1, **KEYS}
# Every job of such a collection fails: the model has no such layer, which only a worker can tell.
IMPOSSIBLE = SHORT | {"key_layer": 99}

_TARGETS = ("Ada", "Ben", "Cleo", "Dora", "Emil", "Finn", "Greta", "Hugo", "Ines", "Jan", "Kira", "Lena")


def write_model(folder: Path) -> str:
    """Write a Llama with one token for each byte, the same at every call. Returns the folder's name."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = ["<pad>", "</s>", "<unk>"]
    plain = Tokenizer(models.BPE({token: i for i, token in enumerate([*ends, *alphabet])}, [], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=WINDOW
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=WINDOW, initializer_range=SPREAD,
            pad_token_id=0, bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip
    save_model(model, tokenizer, folder)
    return str(folder)


@dataclass
class Corrections:
    """A source of corrections whose prompts never repeat."""

    chance: random.Random
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def make(self, edits: int) -> list[dict[str, Any]]:
        return [
            {"prompt": f"Who is number {next(self.numbers)} on the list?", "target": self.chance.choice(_TARGETS)}
            for _ in range(edits)
        ]
