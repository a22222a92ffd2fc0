"""The bench from its files to its figures, on the real packaged model: it falls below these when the method breaks."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.edits.run import Choice, run_bench
from cli.errors import CommandError
from cli.invocation import Invocation
from tests.melo_core.conftest import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.long

DATA = Path(__file__).parents[1] / "data"
FACTS = Choice(
    task="zsre", data=DATA / "facts.jsonl", unrelated=DATA / "unrelated.txt", unrelated_limit=8, limit=6, batch=3,
    rephrases_given=0, against=(), model="smollm2-135m-instruct", encoder="all-minilm-l6-v2", preset="default",
    method={}, form="as-given", json_file=None,
)  # fmt: skip
PASSAGES = dataclasses.replace(FACTS, task="hallucination", data=DATA / "passages.jsonl", limit=2, batch=2)
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
    assert melo["generality_question"] >= 0.75
    assert melo["untouched_neighbours"] >= 0.75
    assert melo["untouched_same_subject"] >= 0.8
    assert melo["untouched_same_subject_asked"]["prompts"] == 28
    assert melo["broken_answers"]["count"] <= 0.1 * melo["broken_answers"]["of_covered"]
    assert melo["verify_ms"] > 0


def test_a_completion_given_as_a_question_is_answered_as_one(tmp_path):
    (melo,) = figures(dataclasses.replace(CLOZES, form="question"), tmp_path)
    assert melo["success"] == 1
    assert (melo["generality_question"], melo["form"]) == (None, "question")


def test_a_corrected_passage_is_reproduced_and_web_text_stays_as_likely_as_it_was(tmp_path):
    (melo,) = figures(PASSAGES, tmp_path)
    assert melo["success"] == 1
    assert melo["perplexity_edited"] <= 1.1 < melo["perplexity_edited_before"]
    assert melo["perplexity_unrelated"] == melo["perplexity_unrelated_before"]
    assert melo["perplexity_unrelated_unchanged"] == 1


def test_a_classifiers_errors_on_later_cases_are_corrected_and_its_other_predictions_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("MELO_CACHE", str(tmp_path / "cache"))  # where the classifier is kept
    file = tmp_path / "cases.csv"
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["facts", "term", "issue_area"])
        rows.writerows(cases())
    choice = dataclasses.replace(FACTS, task="scotus", data=file, unrelated=None, limit=3, json_file=None)
    (melo,) = figures(choice, tmp_path)
    assert melo["edits"] == 3
    assert melo["success"] == 1
    assert melo["untouched_held_out"] >= 0.9
    assert melo["settings"]["fitted_to_the_model"]["whitening"] == "36 texts of the task's own"


def cases() -> Iterator[tuple[str, str, str]]:
    """Invented cases of three kinds; of the later ones, some carry another kind's issue, as fashions change."""
    kinds = {
        "Unions": "The company {} dismissed workers who had joined a union and gone on strike.",
        "Federal Taxation": "The tax office asked {} to pay income tax on the sale of its land.",
        "Criminal Procedure": "The police searched the house of {} at night without a warrant and found drugs.",
    }
    names = ["Abney", "Brill", "Corbo", "Dahl", "Engel", "Fiori", "Grone", "Hask", "Ivers", "Jost", "Kemp", "Lund"]
    for issue, facts in kinds.items():
        for i, name in enumerate(names):
            yield f"<p>{facts.format(name)}</p>", str(1970 + i), issue
            yield facts.format(f"{name} and {names[i - 1]}"), str(1995 + i), issue
    for name in names[:4]:
        yield f"The police asked the union at {name} to pay income tax on a strike fund.", "1999", "Federalism"


def test_an_encoder_decoder_learns_facts_and_nothing_else_changes(tmp_path):
    """A random one: it says nothing of rephrases, whose sense it cannot know."""
    tokenizer = tiny_tokenizer()
    for part in (tiny_model("t5", len(tokenizer)), tokenizer):
        part.save_pretrained(tmp_path / "t5")
    method = {"layers": 2, "rank": 4, "learning_rate": 0.03, "iterations": 300, "loss_target": 0.1}
    choice = dataclasses.replace(FACTS, model=str(tmp_path / "t5"), method=method, limit=4, batch=2)
    (melo,) = figures(choice, tmp_path)
    assert (melo["success"], melo["retention"], melo["unlearned"]) == (1, 1, 0)
    assert melo["untouched_unrelated"] == melo["untouched_template"] == 1


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

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.edits.methods.calibrate", stop)
    with pytest.raises(KeyboardInterrupt):
        run_bench(quiet, choice)
    assert [record["method"] for record in json.loads(file.read_text())] == ["melo"]


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(CommandError, match="cannot be written"):
        run_bench(Invocation(), dataclasses.replace(FACTS, json_file=tmp_path / "nowhere" / "figures.json"))
