"""What the method is compared with does what its paper or its users say, on every architecture it runs on."""

import pytest

from benchmarks.edits.answers import Before, untouched
from benchmarks.edits.data import BenchEdit
from benchmarks.edits.measure import Plan, measure
from benchmarks.edits.peers import grace, lora
from benchmarks.edits.peers.grace import Grace
from benchmarks.edits.peers.lora import SharedLora
from benchmarks.edits.peers.unedited import Unedited
from melo_core.base_model import BaseModel
from melo_core.settings import MethodSettings
from tests.melo_core.conftest import ARCHITECTURES, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.long

FACTS = [("Who runs Acme?", "Ada"), ("Where is the head office of Globex?", "Oslo")]
CLASSES = ["privacy", "tax"]
QUESTIONS = ["Why is the sky blue?", "How tall?", "Name a river in Peru."]


@pytest.fixture(autouse=True)
def settings_for_tiny_models(monkeypatch):
    """Untrained models need longer steps, and have no distances worth a radius."""
    monkeypatch.setattr(lora, "STEPS", 300)
    monkeypatch.setattr(lora, "LEARNING_RATE", 3e-2)
    monkeypatch.setattr(lora, "LOSS_TARGET", 0.2)
    monkeypatch.setattr(grace, "STEPS", 300)
    monkeypatch.setattr(grace, "LEARNING_RATE", 0.3)
    monkeypatch.setattr(grace, "CALIBRATION", 32)


def model(architecture: str) -> BaseModel:
    tokenizer = tiny_tokenizer()
    return BaseModel(tiny_model(architecture, len(tokenizer)), tokenizer)


def edits_for(base: BaseModel) -> list[BenchEdit]:
    targets = CLASSES if base.kind == "classifier" else [target for _, target in FACTS]
    return [BenchEdit(prompt, target, "") for (prompt, _), target in zip(FACTS, targets, strict=True)]


def texts(peer, prompts):
    return [reply.text for reply in peer.answer(prompts, "qa", 8)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_lora_learns_a_batch_and_answers_every_prompt_with_it(architecture):
    base = model(architecture)
    peer, edits = SharedLora(base, MethodSettings(layers=3)), edits_for(base)
    assert peer.covers(QUESTIONS, "qa") == [False] * 3
    assert peer.apply(edits).unreached == 0
    assert texts(peer, [edit.prompt for edit in edits]) == [edit.target for edit in edits]
    assert peer.covers(QUESTIONS, "qa") == [True] * 3


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_graces_codebook_answers_its_keys_and_leaves_what_lies_beyond_their_radius(architecture):
    base = model(architecture)
    peer, edits = Grace(base, MethodSettings()), edits_for(base)
    peer.epsilon = 1e-3
    before = [reply.token_ids for reply in Unedited(base).answer(QUESTIONS, "qa", 8)]
    peer.apply(edits[:1])
    peer.apply(edits[1:])
    assert peer.covers([edit.prompt for edit in edits], "qa") == [True, True]
    assert peer.covers(QUESTIONS, "qa") == [False] * 3
    assert [reply.token_ids for reply in peer.answer(QUESTIONS, "qa", 8)] == before
    # One vector at one layer cannot spell a word in an untrained model; it makes it likelier.
    prompts, targets = [edit.prompt for edit in edits], [edit.target for edit in edits]
    pairs = zip(peer.losses(prompts, targets), Unedited(base).losses(prompts, targets), strict=True)
    assert all(now < 0.7 * was for now, was in pairs)


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_grace_runs_on_encoder_decoders_and_classifiers(architecture):
    base = model(architecture)
    peer, edits = Grace(base, MethodSettings()), edits_for(base)
    peer.apply(edits)
    assert len(peer.entries) == 2
    asked = [edit.prompt for edit in edits]
    assert peer.covers(asked, "qa") == [True, True]
    answers = texts(peer, asked)
    assert answers != texts(Unedited(base), asked)
    if base.kind == "classifier":
        assert answers == CLASSES


def test_graces_radii_expand_for_the_same_answer_and_split_for_another():
    base = model("llama")
    peer = Grace(base, MethodSettings())
    keys = peer._keys(["Who runs Acme?", "Who runs Acme now?"], "qa")
    apart = float((keys[0] - keys[1]).norm())
    peer.epsilon = apart * 0.9
    peer.apply([BenchEdit("Who runs Acme?", "Ada", "")])
    peer.apply([BenchEdit("Who runs Acme now?", "Ada", "")])
    assert [entry.epsilon for entry in peer.entries] == [pytest.approx(apart, rel=1e-3)]
    applied = peer.apply([BenchEdit("Who runs Acme now?", "Bob", "")])
    assert applied.conflicts == 1
    assert [entry.epsilon for entry in peer.entries] == [pytest.approx(apart / 2, rel=1e-3)] * 2


def test_untouched_counts_changed_tokens_and_proves_that_uncovered_prompts_are_the_base_models():
    base = model("llama")
    peer, edits = SharedLora(base, MethodSettings(layers=3)), edits_for(base)
    before = Before(Unedited(base), "qa")
    fresh = untouched(peer, QUESTIONS, before, lambda *_: None)
    assert (fresh.share.hits, fresh.routed, fresh.compared, fresh.unrouted_changed) == (3, 0, 3, 0)
    peer.apply(edits)
    after = untouched(peer, QUESTIONS, before, lambda *_: None)
    assert after.routed == 3 and after.share.hits < 3


def test_a_run_reports_every_figure_that_its_readers_rely_on():
    base = model("llama")
    peer = SharedLora(base, MethodSettings(layers=3))
    edits = [BenchEdit(e.prompt, e.target, "", ("Acme is run by whom?",)) for e in edits_for(base)]
    probes = {"unrelated": QUESTIONS, "swapped": [], "template": []}
    record = measure(peer, base, Plan(edits, 1, 0, probes), Before(Unedited(base), "qa"), lambda *_: None)
    promised = (
        "method edits success generality untouched_unrelated untouched_swapped untouched_template retention "
        "edits_per_second bytes_per_edit peak_memory_mb lookup_ms verify_ms broken_answers"
    )
    assert set(promised.split()) <= record.keys()
    assert (record["method"], record["edits"], record["untouched_swapped"]) == ("lora", 2, None)
    assert record["broken_answers"] is None  # one LoRA answers for all edits


def test_an_edits_given_rephrases_are_not_among_those_tested():
    edit = BenchEdit("Who runs Acme?", "Ada", "Acme", ("Acme's head?", "Who leads Acme?"))
    plan = Plan([edit], 25, 1, {})
    assert [e.rephrases for e in next(plan.batches())] == [("Acme's head?",)]
    assert plan.held_out == [("Who leads Acme?", "Ada")]


def test_the_loss_of_a_continuation_is_that_of_one_whole_pass():
    import torch

    base = model("llama")
    prompt, rest = "Ada was born in", "Oslo."
    ids = base.prompt_ids(prompt, "completion")
    target = base.target_ids(rest, "completion")[:-1]
    logits = base.model(input_ids=torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()
    first, _ = Unedited(base).losses([prompt, "A much longer prompt stands beside it, and"], [rest, "is longer too."])
    assert first == pytest.approx(expected, rel=1e-4)
