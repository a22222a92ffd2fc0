"""The bench from its files to its figures, on the real packaged model: it falls below these when the method breaks."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from registry.cli.errors import CommandError
from registry.cli.invocation import Invocation
from worker.bench.run import Choice, run_bench

DATA = Path(__file__).parents[1] / "data"
FACTS = Choice(
    task="zsre", data=DATA / "facts.jsonl", unrelated=DATA / "unrelated.txt", unrelated_limit=8, limit=6, batch=3,
    rephrases_given=0, against=(), model="smollm2-135m-instruct", encoder="all-minilm-l6-v2", preset="default",
    method={}, form="as-given", json_file=None,
)  # fmt: skip
CLOZES = dataclasses.replace(FACTS, task="counterfact", data=DATA / "clozes.jsonl", limit=4, batch=4)


def figures(choice: Choice, folder: Path) -> list[dict]:
    file = folder / "figures.json"
    quiet = Invocation(out=Console(file=io.StringIO()), err=Console(file=io.StringIO()))
    run_bench(quiet, dataclasses.replace(choice, json_file=file))
    return json.loads(file.read_text())


def test_facts_are_answered_also_when_rephrased_and_nothing_else_changes(tmp_path):
    melo, in_context = figures(dataclasses.replace(FACTS, against=("in-context",)), tmp_path)
    assert (melo["method"], in_context["method"]) == ("melo", "in-context")
    assert melo["success"] == 1
    assert melo["generality"] >= 0.9
    assert melo["retention"] == 1
    assert melo["untouched_unrelated"] == melo["untouched_template"] == 1
    assert melo["untouched_swapped"] >= 0.8
    assert melo["unlearned"] == 0
    assert all(melo[key]["uncovered_but_changed"] == 0 for key in melo if key.endswith("_asked"))


def test_a_completion_is_known_in_its_paraphrases_and_its_question_is_a_figure_of_its_own(tmp_path):
    (melo,) = figures(CLOZES, tmp_path)
    assert melo["success"] == 1
    assert melo["generality"] >= 0.8
    assert melo["generality_question"] is not None


def test_a_completion_given_as_a_question_is_answered_as_one(tmp_path):
    (melo,) = figures(dataclasses.replace(CLOZES, form="question"), tmp_path)
    assert melo["success"] == 1
    assert (melo["generality_question"], melo["form"]) == (None, "question")


def test_the_papers_choices_are_fitted_to_the_model_and_say_so(tmp_path):
    given = {"layers": 2, "iterations": 20}  # fewer than the paper's: its mechanics, not its figures
    (paper,) = figures(dataclasses.replace(CLOZES, preset="paper", method=given, limit=2), tmp_path)
    used = paper["settings"]
    assert (used["key_encoder"], used["key_layer"], used["iterations"]) == ("hidden", 6, 20)
    assert set(used["fitted_to_the_model"]) == {"key_layer", "radius"}
    assert used["radius"] != 1


def test_figures_of_a_method_are_written_before_the_next_begins(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"
    choice = dataclasses.replace(CLOZES, limit=1, against=("paper",), json_file=file)
    quiet = Invocation(out=Console(file=io.StringIO()), err=Console(file=io.StringIO()))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.bench.methods.ordinary_radius", stop)
    with pytest.raises(KeyboardInterrupt):
        run_bench(quiet, choice)
    assert [record["method"] for record in json.loads(file.read_text())] == ["melo"]


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(CommandError, match="cannot be written"):
        run_bench(Invocation(), dataclasses.replace(FACTS, json_file=tmp_path / "nowhere" / "figures.json"))
