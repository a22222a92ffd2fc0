"""A cloze asked as a question keeps its subject and asks for the same thing."""

import pytest

from benchmarks.edits.data import BenchEdit
from benchmarks.edits.wording import as_question, asked_as_question


@pytest.mark.parametrize(
    ("cloze", "subject", "question"),
    [
        ("The mother tongue of Ada Holm is", "Ada Holm", "What is the mother tongue of Ada Holm?"),
        ("Ada Holm, a citizen of", "Ada Holm", "Which country is Ada Holm a citizen of?"),
        ("Ada Holm, playing the", "Ada Holm", "Which instrument does Ada Holm play?"),
        ("Harrow 9, produced by", "Harrow 9", "Which company produced Harrow 9?"),
        ("Vessery Bridge is located in the continent", "Vessery Bridge", "Which continent is Vessery Bridge in?"),
        ("Vessery Bridge, in", "Vessery Bridge", "Where is Vessery Bridge?"),
        ("Acme, that was started in", "Acme", "Where was Acme started?"),
        (r"A\1{} debuted on", r"A\1{}", r"Which network did A\1{} first appear on?"),
        ("What is the twin city of Merrowe? It is", "Merrowe", "What is the twin city of Merrowe?"),
        ("Of all colours, Merrowe likes", "Merrowe", 'Fill in the blank: "Of all colours, Merrowe likes ___"'),
    ],
)
def test_each_relation_has_its_question_and_what_no_rule_knows_is_a_blank(cloze, subject, question):
    assert as_question(cloze, subject) == question


def test_an_edit_given_as_a_question_keeps_its_answer_and_other_prompts():
    edit = BenchEdit("Acme is in", "Oslo", "Acme", ("You find Acme in",), kind="completion")
    asked = asked_as_question(edit)
    assert (asked.prompt, asked.kind, asked.target, asked.rephrases) == ("Where is Acme?", "qa", "Oslo", edit.rephrases)
    assert asked_as_question(asked) == asked
