"""Training a verifier: the pairs that are drawn, and a training of a few steps."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedModel
from typer.testing import CliRunner

from cli.main import make_app
from melo_core.errors import MeloError
from melo_core.verifier import Verifier, embeddings_digest, read_weights, untrained
from melo_core.verifier_files import WEIGHTS
from registry.base.model_files import find_encoder
from worker.model_cache import VERIFIER_BASE
from worker.verifier import variants
from worker.verifier.sources import Sources, held_out
from worker.verifier.train import Plan, save, save_mean, train

GROUPS = [
    {
        "slots": {"s": ["Northgate Clinic", "St. Anne's Hospital"]},
        "same": ["When can I visit someone at {s}?", "{s} visiting hours", "Tell me the visiting hours of {s}."],
        "near": ["What are the opening hours of the pharmacy at {s}?", "Who may visit patients at {s}?"],
    },
    {"same": ["How tall is Mont Blanc?", "height of mont blanc"], "near": ["Who climbed Mont Blanc first?"]},
]
FAMILY = [
    {
        "family": "bank-1",
        "slots": {"s": ["Northgate", "Harrow"]},
        "same": [f"What is the {fee} fee of {{s}}?"] * 8,
        "near": [],
    }
    for fee in ("monthly", "transfer", "overdraft")
]
PAIRS = [
    {"edit": f"Who leads club {n}?", "query": f"Who runs club {n}?", "same": True, "kind": "rephrase", "source": "own"}
    for n in range(40)
] + [
    {"edit": f"Who leads club {n}?", "query": f"Who left club {n}?", "same": False, "kind": "relation", "source": "own"}
    for n in range(40)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    groups, public = tmp_path_factory.mktemp("groups"), tmp_path_factory.mktemp("public")
    (groups / "health.jsonl").write_text("\n".join(map(json.dumps, GROUPS)))
    (public / "scope_pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    return groups, public


def test_pairs_are_drawn_by_the_seed_filled_with_one_name_and_never_from_what_is_held_out(data):
    sources = Sources(*data)
    drawn = [sources.draw(random) for random in [Random(3)] for _ in range(400)]
    assert drawn == [sources.draw(random) for random in [Random(3)] for _ in range(400)]
    assert not any("{" in text for edit, query, _ in drawn for text in (edit, query))
    assert {same for _, _, same in drawn} == {True, False}
    kept_back = {record["edit"] for record in sources.held_out}
    assert 0 < len(kept_back) < 40 and all(held_out(edit) for edit in kept_back)
    assert kept_back.isdisjoint(edit for edit, _, _ in drawn)


@pytest.mark.parametrize(
    ("rule", "text", "made"),
    [
        (variants.other_number, "Who won in 1998?", None),
        (variants.opposite, "Who was the first mayor?", "Who was the last mayor?"),
        (variants.negated, "When is the pool open on Sunday?", None),
    ],
)
def test_near_misses_by_rule_differ_from_the_text_in_what_the_rule_says(rule, text, made):
    found = rule(text, Random(0))
    assert found is not None and found != text and (made is None or found == made)


def test_a_question_asked_of_an_organisation_itself_leaves_its_name_out():
    assert variants.nameless("Does {s} offer lunch?", "s", Random(0)) in ("Do you offer lunch?", "Do u offer lunch?")
    assert variants.nameless("Who is {s}?", "s", Random(0)) is None


def test_training_is_seeded_and_leaves_the_embeddings_as_they_are(data):
    plan = Plan(steps=2, batch=4)
    one, again = (_trained(data, plan) for _ in range(2))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in one.state_dict().items())
    before = untrained(find_encoder(VERIFIER_BASE).path)
    assert embeddings_digest(one) == embeddings_digest(before)
    layer = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(one.state_dict()[layer], before.state_dict()[layer])


def _trained(data: tuple[Path, Path], plan: Plan) -> PreTrainedModel:
    ignored: Callable[..., None] = lambda *_: None  # noqa: E731
    return train(Sources(*data), find_encoder(VERIFIER_BASE).path, plan, None, ignored, ignored)


def test_a_training_that_is_stopped_leaves_its_last_checkpoint_and_what_ships_is_the_mean_of_its_last_steps(
    data, monkeypatch
):
    monkeypatch.setattr("worker.verifier.train.CHECKPOINT", 2)
    kept = list[PreTrainedModel]()
    plan = Plan(steps=3, batch=4, averaging=0.5)
    name = "classifier.weight"

    def keep(model: PreTrainedModel) -> None:
        kept.append(copy.deepcopy(model))

    trained = train(Sources(*data), find_encoder(VERIFIER_BASE).path, plan, None, lambda *_: None, keep)
    assert len(kept) == 1 and not torch.equal(kept[0].state_dict()[name], trained.state_dict()[name])
    last = _trained(data, dataclasses.replace(plan, averaging=0.0)).state_dict()[name]
    torch.testing.assert_close(trained.state_dict()[name], (kept[0].state_dict()[name] + last) / 2)


def test_questions_of_a_family_are_near_misses_of_each_other(tmp_path):
    (tmp_path / "bank.jsonl").write_text("\n".join(map(json.dumps, FAMILY)))
    random, sources = Random(0), Sources(tmp_path, None)
    drawn = [pair for pair in (sources._of_group(random) for _ in range(200)) if pair]
    asked = {
        frozenset(fee for fee in ("monthly", "transfer", "overdraft") if fee in a + b): same for a, b, same in drawn
    }
    assert {len(fees): same for fees, same in asked.items()} == {1: True, 2: False}


def test_the_command_trains_the_packaged_one_on_and_writes_weights_with_a_model_card(data, tmp_path):
    out = tmp_path / "mine"
    command = ["verifier", "train", "--data", str(data[0]), "--public", str(data[1]), "--out", str(out)]
    done = CliRunner().invoke(make_app(), [*command, "--start", "packaged", "--steps", "1", "--threads", "1"])
    assert done.exit_code == 0, done.output
    card = (out / "MODEL_CARD.md").read_text()
    assert "health.jsonl | own words | Apache-2.0 | 2" in card and "near: relation (own)" in card
    Verifier.load(out, find_encoder(VERIFIER_BASE).path).score("Who?", "When?")
    assert (out / WEIGHTS).is_file()


def test_a_folder_without_questions_is_refused(tmp_path):
    done = CliRunner().invoke(make_app(), ["verifier", "train", "--data", str(tmp_path), "--out", str(tmp_path / "x")])
    assert done.exit_code != 0 and "holds no *.jsonl" in str(done.exception)


def test_the_mean_of_two_verifiers_lies_between_them_and_foreign_embeddings_are_refused(data, tmp_path):
    plan = Plan(steps=2, batch=4)
    first, second = _trained(data, plan), _trained(data, dataclasses.replace(plan, seed=1))
    for name, model in (("a", first), ("b", second)):
        save(model, tmp_path / name)
    arguments = ["verifier", "mean", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "mean")]
    assert CliRunner().invoke(make_app(), arguments).exit_code == 0
    a, b, mean = (read_weights(tmp_path / name / WEIGHTS)[0] for name in ("a", "b", "mean"))
    assert not all(torch.equal(a[name], b[name]) for name in a)
    for name in a:
        torch.testing.assert_close(mean[name], (a[name] + b[name]) / 2, atol=2e-3, rtol=1e-3)

    foreign = copy.deepcopy(first)
    foreign.bert.embeddings.word_embeddings.weight.data[0, 0] += 1
    save(foreign, tmp_path / "foreign")
    with pytest.raises(MeloError, match="embeddings"):
        save_mean([tmp_path / "a", tmp_path / "foreign"], tmp_path / "out")
