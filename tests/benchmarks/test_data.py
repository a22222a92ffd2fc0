"""Public formats of editing data are read, and what cannot be read is named."""

import json
from pathlib import Path

import pytest

from benchmarks.edits.data import BenchEdit, UnreadableData, load_edits, load_questions, load_scotus
from benchmarks.edits.probes import neighbours, other_facts, swapped_subjects


def written(folder: Path, *records: object, name: str = "edits.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return file


def test_structured_zsre_prefers_the_rephrases_that_were_checked(tmp_path):
    file = written(
        tmp_path,
        {
            "prompt": "Who runs Acme?", "subject": "Acme", "target_new": "Ada", "ground_truth": "Bob",
            "rephrase_prompt": ["Acme runs who?"], "filtered_rephrases": ["Who leads Acme?", "Who runs Acme?"],
        },
    )  # fmt: skip
    assert load_edits("zsre", file) == [BenchEdit("Who runs Acme?", "Ada", "Acme", ("Who leads Acme?",))]


def test_a_fact_whose_target_is_what_was_true_is_no_correction(tmp_path):
    record = {"prompt": "Who runs Acme?", "subject": "Acme", "target_new": "ada", "ground_truth": "Ada"}
    assert load_edits("zsre", written(tmp_path, record)) == []


def test_mend_zsre_gives_its_locality_question_as_a_neighbour(tmp_path):
    record = {
        "subject": "Acme", "src": "Who runs Acme?", "rephrase": "Who leads Acme?", "alt": "Ada",
        "answers": ["Bob"], "loc": "nq question: who won the cup", "loc_ans": "Leeds",
    }  # fmt: skip
    (edit,) = load_edits("zsre", written(tmp_path, record))
    assert (edit.prompt, edit.target, edit.rephrases) == ("Who runs Acme?", "Ada", ("Who leads Acme?",))
    assert edit.neighbours == ("who won the cup?",)


def test_counterfact_as_published_and_flat_are_the_same_edit(tmp_path):
    nested = {
        "requested_rewrite": {
            "prompt": "The language of {} is", "subject": "Peru",
            "target_new": {"str": "Dutch"}, "target_true": {"str": "Spanish"},
        },
        "paraphrase_prompts": ["In Peru, they speak"], "neighborhood_prompts": ["The language of Chile is"],
    }  # fmt: skip
    flat = {
        "prompt": "The language of Peru is", "subject": "Peru", "target_new": "Dutch", "ground_truth": "Spanish",
        "rephrase_prompt": ["In Peru, they speak"], "locality": [{"prompt": "The language of Chile is"}],
    }  # fmt: skip
    assert load_edits("counterfact", written(tmp_path, nested)) == load_edits("counterfact", written(tmp_path, flat))


def test_knowedit_takes_a_subjects_alias_as_a_rephrase(tmp_path):
    file = tmp_path / "knowedit.json"
    record = {
        "subject": "Acme", "prompt": "Who runs Acme?", "target_new": "Ada", "ground_truth": ["Bob"],
        "portability": {"Subject_Aliasing": [{"prompt": "Who runs Acme Inc.?", "ground_truth": ["Ada"]}]},
        "locality": {"Relation_Specificity": [{"prompt": "Where is Acme?", "ground_truth": [["Oslo"]]}]},
    }  # fmt: skip
    file.write_text(json.dumps([record], indent=1))
    (edit,) = load_edits("zsre", file)
    assert (edit.rephrases, edit.neighbours, edit.kind) == (("Who runs Acme Inc.?",), ("Where is Acme?",), "qa")


def test_wikibio_is_read_in_both_its_forms(tmp_path):
    one = {"prompt": "About Ada.", "target_new": "She ran Acme.", "subject": "ada",
           "locality_prompt": "An old", "locality_ground_truth": "map."}  # fmt: skip
    two = {"text": "About Bob.", "labels": "He left.", "concept": "bob"}
    ada, bob = load_edits("hallucination", written(tmp_path, one, two))
    assert ada.unrelated_text == ("An old", "map.") and ada.kind == "completion"
    assert (bob.prompt, bob.target, bob.subject) == ("About Bob.", "He left.", "bob")


def test_scotus_drops_markup_and_cases_without_an_issue(tmp_path):
    file = tmp_path / "cases.csv"
    file.write_text('facts,term,issue_area\n"<p>A &amp; B\nsued.</p>",1971,Privacy\n<p>C</p>,1972,\n')
    (case,) = load_scotus(file)
    assert (case.text, case.year, case.issue) == ("A & B sued.", 1971, "Privacy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a", "target_new": "b"}\n{"prompt": "a"}\n', "line 2, field 'target_new'"),
        ('{"prompt": "a", "target_new": "b"}\n\n{oops\n', "line 3: not JSON"),
        ('{"question": "a"}\n', "line 1: the fields question are none of a known zsre format"),
        ("[1]", "line 1: an object with fields is expected"),
        ("", "holds no record"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_line_and_field(tmp_path, content, message):
    file = tmp_path / "broken.jsonl"
    file.write_text(content)
    with pytest.raises(UnreadableData, match=message) as raised:
        load_edits("zsre", file)
    assert str(file) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableData, match="nowhere"):
        load_questions(tmp_path / "nowhere.txt")


def test_a_swapped_subject_is_another_real_one_and_never_an_edited_question():
    edits = [BenchEdit("Who runs Acme?", "Ada", "Acme"), BenchEdit("Who runs Globex?", "Bob", "Globex")]
    others = [BenchEdit("Where is Initech?", "Oslo", "Initech"), BenchEdit("Where is Acme?", "Rome", "Acme")]
    assert swapped_subjects(edits, others) == ["Who runs Initech?", "Who runs Initech?"]
    assert other_facts(edits, others) == ["Where is Initech?"]  # of Acme something was corrected
    assert neighbours(edits) == []
    only_each_other = swapped_subjects(edits, [])
    assert not set(only_each_other) & {edit.prompt for edit in edits}
