"""Edits are learned until free generation gives their targets, alone or several to a block, in any precision."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from melo_core.base_model import BaseModel
from melo_core.edited_model import Attempt, EditedModel, Route
from melo_core.errors import PromptTooLong
from melo_core.learning import EditRequest, Learned, learn
from melo_core.memory import free_memory, memory_needed
from melo_core.settings import MethodSettings
from melo_core.training import size_that_fits
from tests.melo_core.conftest import ARCHITECTURES
from tests.melo_core.test_training_and_answers import PROMPTS, SETTINGS, targets_for
from tests.patience import PATIENCE

FAR = "Acme: name of chief executive officer, please"


def requests_for(base: BaseModel, **fields: object) -> list[EditRequest]:
    return [
        EditRequest(f"edit {i}", p, p, t, **fields)
        for i, (p, t) in enumerate(zip(PROMPTS, targets_for(base), strict=True))
    ]


def answers(base: BaseModel, settings: MethodSettings, learned: list[Learned], prompts: list[str]) -> list[str]:
    blocks = {one.group: one.trained.block for one in learned}
    model = EditedModel(base, settings, None, blocks, {})
    routes = [Route(one.group, None) for one in learned]
    return [answer.text for answer in model.answer(prompts, routes, max_new_tokens=8)]


def replaced(**values: object) -> MethodSettings:
    return dataclasses.replace(SETTINGS, **values)


def test_each_edit_has_its_own_block_unless_several_are_to_share_one(tiny):
    base = tiny("llama")
    assert [one.group for one in learn(base, SETTINGS, requests_for(base))] == [0, 1, 2]
    settings = replaced(edits_per_block=2, rank=8)
    learned = learn(base, settings, requests_for(base))
    assert [one.group for one in learned] == [0, 0, 1]
    assert learned[0].data == learned[1].data != learned[2].data
    assert all(one.reproduced for one in learned)
    assert answers(base, settings, learned, PROMPTS) == targets_for(base)


def test_an_alternative_counts_as_right_and_is_not_trained(tiny):
    base = tiny("llama")
    hasty = replaced(iterations=6, loss_target=0.01, rounds=1)
    said = learn(base, hasty, requests_for(base))
    assert not all(one.reproduced for one in said)
    allowed = [
        dataclasses.replace(request, alternatives=("another", one.answer))
        for request, one in zip(requests_for(base), said, strict=True)
    ]
    again = learn(base, hasty, allowed)
    assert all(one.reproduced for one in again)
    assert [one.data for one in again] == [one.data for one in said]
    attempt = Attempt("query", [], Route(0, None), "Jo Doe", ("J. Doe",))
    said_of = [attempt.is_answered_by(text, 3, 9) for text in ("Jo Doe\n", "J. Doe", "jo doe.", "Jane Doe")]
    assert said_of == [True, True, False, False]


def test_a_block_is_trained_again_and_longer_until_its_answer_is_the_target(tiny):
    base, notes = tiny("llama"), list[str]()
    hasty = replaced(iterations=6, loss_target=0.01, rounds=1)
    once = learn(base, hasty, requests_for(base))
    assert not all(one.reproduced for one in once)
    again = learn(base, dataclasses.replace(hasty, rounds=4), requests_for(base), on_note=notes.append)
    assert all(one.reproduced for one in again)
    assert max(one.trained.iterations for one in again) > 6
    assert any("do not give their answers yet: training them again, with up to 12 steps" in note for note in notes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_said_of_an_answer_is_what_the_edited_model_answers(tiny, architecture):
    base = tiny(architecture)
    hasty = replaced(iterations=6, rounds=1)  # answers that nobody would guess
    learned = learn(base, hasty, requests_for(base))
    longest = max(len(one.label) for one in learned)
    model = EditedModel(base, hasty, None, {one.group: one.trained.block for one in learned}, {})
    found = model.answer(PROMPTS, [Route(one.group, None) for one in learned], max_new_tokens=longest)
    assert [one.answer for one in learned] == [answer.text for answer in found]


def test_what_was_learned_at_once_is_not_trained_again(tiny):
    base, notes = tiny("llama"), list[str]()
    base.model.generation_config.eos_token_id = base.tokenizer.convert_tokens_to_ids(["</s>", "s"])
    settings = replaced(iterations=100, loss_target=0, rounds=2)
    hopeless = EditRequest("b", "b", PROMPTS[1], "Oslo")  # an answer ends with its second token
    first, second = learn(base, settings, [requests_for(base)[0], hopeless], on_note=notes.append)
    assert (first.trained.iterations, second.trained.iterations) == (100, 200)
    assert any(note.startswith("1 of 2 blocks do not give their answers yet") for note in notes)


def test_the_seed_of_a_block_comes_from_its_edits_and_not_from_their_company(tiny):
    base = tiny("llama")
    settings = replaced(iterations=1, rounds=1)  # after one step A is as it was drawn
    first, second, _ = learn(base, settings, requests_for(base))
    (alone,) = learn(base, settings, requests_for(base)[1:2])
    (other,) = learn(base, dataclasses.replace(settings, seed=1), requests_for(base)[1:2])
    name = next(iter(alone.trained.block.weights))

    def start(one: Learned) -> torch.Tensor:
        return one.trained.block.weights[name][0]

    assert torch.equal(start(second), start(alone))
    assert not torch.equal(start(second), start(first))
    assert not torch.equal(start(second), start(other))


def test_without_a_loss_target_every_step_is_taken_and_none_is_missed(tiny):
    base = tiny("llama")
    learned = learn(base, replaced(iterations=60, loss_target=0), requests_for(base))
    assert [(one.trained.iterations, one.trained.reached) for one in learned] == [(60, True)] * 3


def test_rephrases_are_examples_only_where_they_are_to_be_learned(tiny):
    base = tiny("llama")
    request = [EditRequest("edit 0", "a", PROMPTS[0], "Ada", rephrases=(FAR,))]
    settings = replaced(learn_rephrases=True)
    assert answers(base, settings, learn(base, settings, request), [FAR]) == ["Ada"]
    assert answers(base, SETTINGS, learn(base, SETTINGS, request), [FAR]) != ["Ada"]


def test_a_completion_is_learned_as_a_turn_of_a_chat_too_where_there_are_turns(tiny):
    base = tiny("llama")
    base.tokenizer.chat_template = "{% for turn in messages %}[{{ turn.content }}]{% endfor %}"
    request = [EditRequest("edit 0", "a", "Globex is based in", "Oslo", kind="completion")]

    def answered(settings: MethodSettings, kind: str) -> str:
        (learned,) = learn(base, settings, request)
        model = EditedModel(base, settings, None, {0: learned.trained.block}, {})
        return model.answer(["Globex is based in"], [Route(0, None)], kind, 8)[0].text

    assert [answered(SETTINGS, kind) for kind in ("completion", "qa")] == ["Oslo", "Oslo"]
    assert answered(replaced(learn_as_question=False), "completion") == "Oslo"
    assert answered(replaced(learn_as_question=False), "qa") != "Oslo"


def test_an_edit_that_cannot_be_learned_is_named(tiny):
    base = tiny("llama")
    requests = [*requests_for(base), EditRequest("edit 17", "x", "x" * 250, "a long answer")]
    with pytest.raises(PromptTooLong, match="edit 17: prompt and answer have 265 tokens"):
        learn(base, SETTINGS, requests)


@pytest.mark.parametrize("architecture", ["llama", "t5", "bert"])
def test_a_model_of_small_logits_learns_as_one_of_large_ones(tiny, architecture):
    base = tiny(architecture)
    head = base.model.classifier if architecture == "bert" else base.model.lm_head
    settings = replaced(rounds=1)
    usual = learn(base, settings, requests_for(base))
    head.weight.mul_(0.02)
    small = learn(base, settings, requests_for(base))
    assert all(one.reproduced and one.trained.reached for one in [*usual, *small])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_edit_of_a_model_in_half_precision_is_answered_rightly(tiny, architecture, dtype):
    base = tiny(architecture)
    base.model.to(dtype)
    learned = learn(base, SETTINGS, requests_for(base))
    assert all(one.reproduced for one in learned)
    assert all(w.isfinite().all() for one in learned for pair in one.trained.block.weights.values() for w in pair)
    assert answers(base, SETTINGS, learned, PROMPTS) == targets_for(base)
    assert {p.dtype for p in base.model.parameters()} == {dtype}


def test_where_the_estimate_is_above_what_is_free_fewer_blocks_are_started_with(tiny):
    base, notes, longest = tiny("llama"), list[str](), 16
    free = free_memory(base.device)
    while memory_needed(base, SETTINGS, [[(longest, longest)]]) < free / 16:
        longest *= 2
    lengths = [[(longest, longest)]] * 64
    size = size_that_fits(base, SETTINGS, lengths, notes.append)
    assert 1 <= size <= 16
    assert memory_needed(base, SETTINGS, lengths[:size]) < free * 1.1
    assert notes[0].startswith("64 blocks together would need about ")
    assert notes[0].endswith(f"starting with {size}")
    assert notes[1].startswith(f"training 64 blocks, {size} together, needs about ")
    assert size_that_fits(base, SETTINGS, [[(8, 8)]], notes.append) == 1
    assert notes[-1].startswith("training 1 block, needs about ")


# In a process of its own, with a limit on its memory that the operating system keeps: 64 blocks of a model with a
# huge vocabulary do not fit, fewer do.
LIMITED = """
import resource, sys, torch
torch.set_num_threads(1)
from melo_core.base_model import BaseModel
from melo_core.errors import MeloError
from melo_core.memory import memory_needed
from melo_core.settings import MethodSettings
from melo_core.training import Example, train_blocks
from tests.melo_core.conftest import tiny_model, tiny_tokenizer

limit, forever = resource.RLIMIT_AS, resource.RLIM_INFINITY
room, blocks = int(sys.argv[1]), int(sys.argv[2])
base = BaseModel(tiny_model("llama", 50_000), tiny_tokenizer())
settings = MethodSettings(layers=2, iterations=2, loss_target=0)
edits = [[Example([3 + i, 4], [5 + i] * 16)] for i in range(blocks)]
train_blocks(base, settings, edits[:1], [0])  # what is loaded on first use
print("estimate", memory_needed(base, settings, [[(2, 16)]] * blocks))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(limit, (used + room, forever))
try:
    trained = train_blocks(base, settings, edits, range(blocks), on_note=print)
except MeloError as error:
    print(error)
else:
    resource.setrlimit(limit, (forever, forever))
    whole = train_blocks(base, settings, edits, range(blocks))
    apart = [
        (a - b).abs().max().item()
        for one, other in zip(trained, whole, strict=True)
        for pair, its in zip(one.block.weights.values(), other.block.weights.values(), strict=True)
        for a, b in zip(pair, its, strict=True)
    ]
    print("apart", max(apart), [t.iterations for t in trained] == [2] * blocks)
"""


def limited(room: int, blocks: int) -> list[str]:
    # With a fixed threshold glibc gives freed tensors back at once: otherwise what it kept might hold a whole block.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", LIMITED, str(room), str(blocks)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_where_memory_runs_out_fewer_blocks_are_trained_together_with_the_same_result():
    lines = limited(350_000_000, 64)
    assert int(lines[0].removeprefix("estimate ")) > 600_000_000
    assert lines[1].startswith("training 64 blocks, 64 together, needs about ")
    assert "out of memory with 64 blocks together: going on with 32" in lines
    assert lines[-1].startswith("apart ") and lines[-1].endswith(" True")
    assert float(lines[-1].split()[1]) < 1e-2


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_where_memory_is_not_enough_for_one_block_the_error_says_what_to_do():
    lines = limited(5_000_000, 2)
    assert lines[-2] == "out of memory with 2 blocks together: going on with 1"
    assert lines[-1].startswith("out of memory with one block alone; free memory")
