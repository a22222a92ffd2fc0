"""The layers that carry blocks are found by structure, or named."""

import dataclasses

import pytest

from melo_core.errors import UnsupportedModel
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of

EXPECTED = {
    "llama": ["model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj"],
    "gpt2": ["transformer.h.2.mlp.c_proj", "transformer.h.3.mlp.c_proj"],
    "t5": ["decoder.block.2.layer.2.DenseReluDense.wo", "decoder.block.3.layer.2.DenseReluDense.wo"],
    "bert": ["bert.encoder.layer.2.output.dense", "bert.encoder.layer.3.output.dense"],
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_the_mlp_output_of_the_last_layers_carries_the_block(tiny, architecture):
    structure = structure_of(tiny(architecture).model, MethodSettings(layers=2))
    assert list(structure.modules) == EXPECTED[architecture]
    assert structure.first == 2
    assert set(structure.shapes.values()) == {(128 if architecture == "gpt2" else 64, 32)}


def test_modules_named_in_the_settings_are_taken_instead(tiny):
    named = dataclasses.replace(MethodSettings(), modules=("model.layers.1.self_attn.o_proj",))
    structure = structure_of(tiny("llama").model, named)
    assert list(structure.modules) == ["model.layers.1.self_attn.o_proj"]
    assert structure.first == 1


def test_a_module_that_the_model_does_not_have_is_refused_with_one_that_it_has(tiny):
    named = dataclasses.replace(MethodSettings(), modules=("model.layers.1.mlp",))
    with pytest.raises(UnsupportedModel, match=r"a valid name: model\.layers\.3\.mlp\.down_proj"):
        structure_of(tiny("llama").model, named)
