"""Blocks as PEFT adapters, loaded by PEFT: the same effect on every architecture."""

import copy
import json

import pytest
import torch
from peft import PeftModel

from melo_core.application import applied
from melo_core.block import Block
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of
from tests.melo_core.conftest import ARCHITECTURES
from tests.serving.conftest import TEMPLATE
from worker.export.adapter import config_of, last_token_of_questions, tensors_of

PROMPT = "Who runs Acme?"


def some_block(base, ranks=(3, 3), scale=0.5):
    """Strong enough to change what the model says."""
    generator = torch.Generator().manual_seed(0)
    shapes = structure_of(base.model, MethodSettings(layers=len(ranks))).shapes
    weights = {
        name: (torch.randn(r, d_in, generator=generator).half(), torch.randn(d_out, r, generator=generator).half())
        for (name, (d_in, d_out)), r in zip(shapes.items(), ranks, strict=True)
    }
    return Block(weights, scale)


def loaded(base, block, folder, invocation=None):
    """The model with the adapter, as PEFT reads both from files."""
    modules = structure_of(base.model, MethodSettings(layers=len(block.weights))).modules
    (folder / "adapter_model.safetensors").write_bytes(tensors_of(block))
    config = config_of(block, "tiny", base.kind, modules, invocation)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return PeftModel.from_pretrained(copy.deepcopy(base.model), folder)


def with_block(base, block, positions, **inputs):
    """The logits of the model with a block of our own."""
    modules = structure_of(base.model, MethodSettings(layers=len(block.weights))).modules
    weights = {n: (a.float()[None], b.float()[None] * block.scale) for n, (a, b) in block.weights.items()}
    with torch.no_grad(), applied(modules, weights, None, positions):
        return base.model(**inputs).logits


def inputs_of(base):
    ids = torch.tensor([base.prompt_ids(PROMPT)])
    return {"input_ids": ids} | ({"decoder_input_ids": ids[:, :5]} if base.kind == "seq2seq" else {})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("ranks", [(3, 3), (3, 2)])
def test_peft_adds_what_the_block_adds(tiny, tmp_path, architecture, ranks, recwarn):
    base = tiny(architecture)
    block, inputs = some_block(base, ranks), inputs_of(base)
    with torch.no_grad():
        plain, found = base.model(**inputs).logits, loaded(base, block, tmp_path)(**inputs).logits
    torch.testing.assert_close(found, with_block(base, block, "all", **inputs), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=0.1)
    assert not [str(w.message) for w in recwarn if "fan_in_fan_out" in str(w.message) or "adapter" in str(w.message)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_activated_lora_acts_from_the_last_prompt_token_on(tiny, tmp_path, architecture):
    base = tiny(architecture)
    base.tokenizer.chat_template = TEMPLATE
    block, inputs = some_block(base), inputs_of(base)
    token = last_token_of_questions(base)
    assert token in inputs["input_ids"][0, :-1], "to be told from the same token earlier in the prompt"
    with torch.no_grad():
        plain, found = base.model(**inputs).logits, loaded(base, block, tmp_path, token)(**inputs).logits
    torch.testing.assert_close(found, with_block(base, block, "answer", **inputs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, :-1], plain[:, :-1])
    assert not torch.allclose(found[:, -1], plain[:, -1], atol=0.1)


@pytest.mark.parametrize(
    ("template", "is_fixed"),
    [(None, False), ("{{ messages[0].content }}", False), ("{{ messages[0].content }}{{ '\\n' }}", True)],
)
def test_the_last_token_is_fixed_only_if_the_template_ends_the_prompt(tiny, template, is_fixed):
    base = tiny("llama")
    base.tokenizer.chat_template = template
    token = last_token_of_questions(base)
    assert (token is not None) is is_fixed
    assert token is None or token == base.prompt_ids("How tall is it")[-1]
