"""Blocks are trained, applied and told apart on every architecture."""

import dataclasses
import math

import pytest
import torch

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import BASE, Answer, EditedModel, Route
from melo_core.errors import MeloError, PromptTooLong
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of
from melo_core.training import Example, Progress, Trained, remember, train_blocks
from tests.melo_core.conftest import ARCHITECTURES, RELATIVES

SETTINGS = MethodSettings(layers=2, rank=4, learning_rate=3e-2, iterations=300, loss_target=0.2)
PROMPTS = ["Who runs Acme?", "Where is the head office of Globex?", "When?"]
TARGETS = ["Ada", "Oslo", "1999"]
CLASSES = ["privacy", "labour", "tax"]
QUESTIONS = ["Why is the sky blue?", "How tall?", "Name a river in Peru, and one in Chile."]


def targets_for(base: BaseModel) -> list[str]:
    return CLASSES if base.kind == "classifier" else TARGETS


def examples(base: BaseModel) -> list[list[Example]]:
    pairs = zip(PROMPTS, targets_for(base), strict=True)
    return [[Example(base.prompt_ids(p), base.target_ids(t))] for p, t in pairs]


def edited(base: BaseModel, trained: list[Trained], settings: MethodSettings = SETTINGS) -> EditedModel:
    blocks = {i: t.block for i, t in enumerate(trained)}
    return EditedModel(base, settings, None, blocks, {})


def routed(*blocks: int | None) -> list[Route]:
    return [Route(block, None) for block in blocks]


def tokens(answers: list[Answer]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_block_gives_its_own_answer_and_the_base_model_is_not_changed(tiny, architecture):
    base = tiny(architecture)
    before = {name: p.clone() for name, p in base.model.state_dict().items()}
    trained = train_blocks(base, SETTINGS, examples(base), [1, 2, 3])
    model = edited(base, trained)

    assert [a.text for a in model.answer(PROMPTS, routed(0, 1, 2), max_new_tokens=8)] == targets_for(base)
    assert all(t.reached and t.iterations < SETTINGS.iterations for t in trained)
    assert all(torch.equal(p, before[name]) for name, p in base.model.state_dict().items())


@pytest.mark.parametrize("architecture", RELATIVES)
def test_other_decoders_learn_too_also_where_layers_see_a_window_of_the_text_alone(tiny, architecture):
    base = tiny(architecture)
    every_layer = dataclasses.replace(SETTINGS, layers=4)  # Gemma's norm behind an MLP bounds what a block can do
    model = edited(base, train_blocks(base, every_layer, examples(base), [1, 2, 3]), every_layer)

    assert [a.text for a in model.answer(PROMPTS, routed(0, 1, 2), max_new_tokens=8)] == TARGETS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_without_a_block_is_answered_as_by_the_base_model_beside_edited_ones(tiny, architecture):
    base = tiny(architecture)
    model = edited(base, train_blocks(base, SETTINGS, examples(base), [1, 2, 3]))
    asked = [PROMPTS[0], *QUESTIONS]

    alone = model.answer(asked, [BASE] * 4, max_new_tokens=8)
    mixed = model.answer(asked, routed(0, None, None, None), max_new_tokens=8)

    assert tokens(mixed)[1:] == tokens(alone)[1:]
    assert mixed[0].text == targets_for(base)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_twice_gives_the_same_bytes_and_another_seed_gives_others(tiny, architecture):
    base = tiny(architecture)
    first = train_blocks(base, SETTINGS, examples(base), [1, 2, 3])
    again = train_blocks(base, SETTINGS, examples(base), [1, 2, 3])
    other = train_blocks(base, SETTINGS, examples(base), [4, 5, 6])

    assert [t.block.to_bytes() for t in first] == [t.block.to_bytes() for t in again]
    assert first[0].block.to_bytes() != other[0].block.to_bytes()


def test_a_block_does_not_depend_on_what_is_trained_beside_it(tiny):
    base = tiny("llama")
    together = train_blocks(base, SETTINGS, examples(base), [1, 2, 3])
    alone = train_blocks(base, SETTINGS, examples(base)[:1], [1])

    name = next(iter(alone[0].block.weights))
    for a, b in zip(together[0].block.weights[name], alone[0].block.weights[name], strict=True):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=0)  # equal but for the order of additions


@pytest.mark.parametrize("architecture", ["llama", "gpt2", *RELATIVES])
def test_what_prompts_begin_with_in_common_changes_no_logit(tiny, architecture):
    base = tiny(architecture)
    prompts = ["In short: who runs Acme?", "In short: who", "In short: where is it, then?"]
    asked = [Example(base.prompt_ids(prompt), base.target_ids("Ada")) for prompt in prompts]
    memory = remember(base, SETTINGS, structure_of(base.model, SETTINGS), asked)

    logits, _, row = memory.logits()

    for i, example in enumerate(asked):
        ids = torch.tensor([example.prompt_ids + example.target_ids[:-1]])
        alone = base.model(ids).logits[0, len(example.prompt_ids) - 1 :]
        assert torch.allclose(logits[row == i], alone, atol=1e-4)


def test_a_block_with_several_examples_answers_all_of_them(tiny):
    base = tiny("llama")
    target = base.target_ids("Ada")
    asked = ["Who runs Acme?", "Acme is led by whom?"]
    trained = train_blocks(base, SETTINGS, [[Example(base.prompt_ids(p), target) for p in asked]], [7])

    assert len(trained) == 1
    assert [a.text for a in edited(base, trained).answer(asked, routed(0, 0), max_new_tokens=8)] == [
        "Ada",
        "Ada",
    ]


def test_blocks_that_act_on_all_positions_answer_too(tiny):
    base, settings = tiny("llama"), dataclasses.replace(SETTINGS, positions="all")
    model = edited(base, train_blocks(base, settings, examples(base), [1, 2, 3]), settings)
    assert [a.text for a in model.answer(PROMPTS, routed(0, 1, 2), max_new_tokens=8)] == TARGETS


def test_with_answer_side_blocks_the_prompts_keys_and_values_are_the_base_models(tiny):
    base = tiny("llama")
    model = edited(base, train_blocks(base, SETTINGS, examples(base), [1, 2, 3]))
    ids = torch.tensor([base.prompt_ids(PROMPTS[0])])

    plain = base.model(ids, use_cache=True).past_key_values
    with model.attached(routed(0)):
        with_block = base.model(ids, use_cache=True)
    for a, b in zip(plain.layers, with_block.past_key_values.layers, strict=True):
        assert torch.equal(a.keys[:, :, :-1], b.keys[:, :, :-1])
        assert torch.equal(a.values[:, :, :-1], b.values[:, :, :-1])
    assert not torch.equal(base.model(ids).logits[:, -1], with_block.logits[:, -1])


def test_a_block_that_does_not_reach_its_loss_says_so(tiny):
    base, hasty = tiny("llama"), dataclasses.replace(SETTINGS, iterations=2)
    (trained,) = train_blocks(base, hasty, examples(base)[:1], [1])
    assert (trained.reached, trained.iterations) == (False, 2)
    assert trained.loss > hasty.loss_target


def test_progress_counts_up_to_the_number_of_blocks(tiny):
    base, seen = tiny("llama"), list[Progress]()
    trained = train_blocks(base, dataclasses.replace(SETTINGS, batch=2), examples(base), [1, 2, 3], seen.append)
    assert seen[-1].done == seen[-1].total == 3
    assert seen[-1].loss == max(each.loss for each in trained)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[0].done == 0 and seen[0].seconds_left is None and seen[-1].seconds_left == 0
    assert any(p.seconds_left for p in seen)


def test_a_prompt_that_does_not_fit_the_window_is_refused_by_name(tiny):
    base = tiny("llama")
    with pytest.raises(PromptTooLong, match="window is 256"):
        base.prompt_ids("why? " * 100)
    fits, target = base.prompt_ids("x" * 250), base.target_ids("a long answer")
    with pytest.raises(PromptTooLong, match="prompt and answer have 265 tokens"):
        train_blocks(base, SETTINGS, [[Example(fits, target)]], [1])


def test_a_class_that_the_classifier_does_not_have_is_refused_with_those_it_has(tiny):
    with pytest.raises(MeloError, match="tax, privacy, labour"):
        tiny("bert").target_ids("maritime law")


def test_blocks_of_different_rank_and_scale_serve_side_by_side(tiny):
    base = tiny("llama")
    thin, thick = dataclasses.replace(SETTINGS, rank=2), dataclasses.replace(SETTINGS, rank=6, scale=2.0)
    blocks = [
        train_blocks(base, settings, examples(base)[i : i + 1], [i])[0] for i, settings in enumerate((thin, thick))
    ]
    reloaded = [dataclasses.replace(t, block=Block.from_bytes(t.block.to_bytes())) for t in blocks]
    answers = edited(base, reloaded).answer(PROMPTS[:2], routed(0, 1), max_new_tokens=8)
    assert [a.text for a in answers] == TARGETS[:2]


def test_a_block_that_diverges_stays_without_effect_and_can_be_stored(tiny):
    base = tiny("llama")
    wild = dataclasses.replace(SETTINGS, learning_rate=1e6, iterations=3, loss_target=1e-9)
    (trained,) = train_blocks(base, wild, examples(base)[:1], [1])
    assert math.isinf(trained.loss) and not trained.reached
    Block.from_bytes(trained.block.to_bytes())
    answers = edited(base, [trained]).answer(PROMPTS[:1] * 2, routed(0, None), max_new_tokens=8)
    assert answers[0].text == answers[1].text
