"""In every family that is claimed, a block acts where the table says; others are refused with the reason."""

from pathlib import Path

import pytest
import torch

from melo_core.base_model import BaseModel
from melo_core.edited_model import BASE, EditedModel, Route
from melo_core.errors import UnsupportedModel
from melo_core.families import FAMILIES, REFUSED, require_editable
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, Structure, structure_of
from melo_core.training import Example, remember, train_blocks
from tests.melo_core.conftest import tiny_tokenizer
from tests.melo_core.families import CLASSES, tiny_of

SETTINGS = MethodSettings(layers=4, rank=4, learning_rate=3e-2, iterations=400, loss_target=0.02)
PROMPTS = ["Who runs Acme?", "Where is the head office of Globex?"]
OTHERS = ["Why is the sky blue?", "How tall?"]
DOCS = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_acts_where_the_table_says_and_leaves_other_prompts_alone(family):
    tokenizer = tiny_tokenizer()
    base = BaseModel(tiny_of(family, len(tokenizer)), tokenizer)
    structure = structure_of(base.model, SETTINGS)
    targets = ["Ada", "No"]
    if base.kind is Kind.CLASSIFIER:
        given = EditedModel(base, SETTINGS, None, {}, {}).answer(PROMPTS, [BASE, BASE])
        targets = [next(name for name in CLASSES.values() if name != answer.text) for answer in given]
    examples = [[Example(base.prompt_ids(p), base.target_ids(t))] for p, t in zip(PROMPTS, targets, strict=True)]

    if base.kind is Kind.CAUSAL:
        assert _trains_on_what_it_answers_by(base, structure, [each for (each,) in examples])
    trained = train_blocks(base, SETTINGS, examples, [1, 2])
    model = EditedModel(base, SETTINGS, None, {i: each.block for i, each in enumerate(trained)}, {})
    together = model.answer([*PROMPTS, *OTHERS], [Route(0, None), Route(1, None), BASE, BASE], max_new_tokens=6)
    alone = model.answer(OTHERS, [BASE, BASE], max_new_tokens=6)

    assert len(structure.modules) == 4
    assert all(any(name.endswith(f".{inner}") for inner in FAMILIES[family].modules) for name in structure.modules)
    assert [answer.text for answer in together[:2]] == targets, [(each.loss, each.iterations) for each in trained]
    assert [answer.token_ids for answer in together[2:]] == [answer.token_ids for answer in alone]
    assert all(bool(b.any()) for each in trained for _, b in each.block.weights.values())


@torch.no_grad()
def _trains_on_what_it_answers_by(base: BaseModel, structure: Structure, examples: list[Example]) -> bool:
    """The logits of training, with prompts padded and cached, are those of each text alone."""
    logits, _, row = remember(base, SETTINGS, structure, examples).logits()
    for i, each in enumerate(examples):
        ids = torch.tensor([each.prompt_ids + each.target_ids[:-1]])
        if not torch.allclose(logits[row == i], base.model(ids).logits[0, len(each.prompt_ids) - 1 :], atol=1e-3):
            return False
    return True


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_carry_a_block_is_refused_with_the_reason_even_with_modules_named(family):
    with pytest.raises(UnsupportedModel) as caught:
        require_editable({"model_type": family, "architectures": ["XForCausalLM"]}, ["model.layers.0.mlp"])
    assert str(caught.value).endswith(REFUSED[family])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "names no model_type"),
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, "CLIPModel is not a causal LM"),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "LlamaModel is not a causal LM"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "is not a causal LM"),
        ({"model_type": "novel", "architectures": ["NovelForCausalLM"]}, "name those to edit with the method setting"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, r"are quantised \(gptq\)"),
        ({"gguf": "mamba"}, "one state of all that it read"),
        ({"gguf": "clip"}, "GGUF files of the architecture clip are not read"),
    ],
)
def test_what_cannot_carry_a_block_is_refused_with_the_reason(config, says):
    with pytest.raises(UnsupportedModel, match=says):
        require_editable(config)


def test_a_family_that_is_not_known_is_taken_with_modules_that_the_settings_name():
    require_editable({"model_type": "novel", "architectures": ["NovelForCausalLM"]}, ["model.layers.0.mlp.out"])
    require_editable({"gguf": "llama"})
    require_editable({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]})


def test_a_named_module_that_gets_all_prompts_tokens_in_a_row_is_refused():
    tokenizer = tiny_tokenizer()
    base = BaseModel(tiny_of("opt", len(tokenizer)), tokenizer)
    settings = MethodSettings(modules=("model.decoder.layers.3.fc2",))
    example = Example(base.prompt_ids(PROMPTS[0]), base.target_ids("Ada"))
    with pytest.raises(UnsupportedModel, match=r"fc2 gets all prompts' tokens in one row"):
        train_blocks(base, settings, [[example]], [1])


def test_the_documentation_lists_every_family_as_the_code_does():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text().splitlines()]
    told = {row[0].strip("`"): row[1:] for row in rows if len(row) == 3 and row[0].startswith("`")}
    assert told == {name: [_modules(name), each.tested] for name, each in FAMILIES.items()} | {
        name: ["refused", reason] for name, reason in REFUSED.items()
    }


def _modules(family: str) -> str:
    return ", else ".join(f"`{module}`" for module in FAMILIES[family].modules)
