"""Which edit covers a query: real encoder, real verifier, no language model."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from melo_core.encoder import SentenceEncoder
from melo_core.index import ClusterIndex
from melo_core.scope import Scope, ScopedText, doubted
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier
from melo_core.verifier_files import folder_of
from tests.melo_core.conftest import FOLDER

CEO, HOURS = "Who is the CEO of Acme?", "What are the opening hours of the Acme shop in Utrecht?"
EDITS = [[CEO, "Who leads Acme?"], [HOURS], ["What is the price of the Acme Pro plan?"], ["Who founded Acme?"]]


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier.load(folder_of("packaged"), FOLDER)


def made(
    encoder: SentenceEncoder,
    verifier: Verifier | None,
    edits: Sequence[Sequence[str]] = EDITS,
    guards: Sequence[Sequence[str]] = ((), (), (), ()),
) -> Scope:
    settings = MethodSettings()
    index, texts = ClusterIndex(encoder.dimension, settings.radius), dict[int, ScopedText]()
    for number, asked in enumerate(edits):
        for text in asked:
            index.insert(len(texts), encoder.key(text), (number,))
            texts[len(texts)] = ScopedText(number, text, tuple(guards[number]))
    return Scope(encoder, index, settings, texts, verifier)


def edit_of(scope: Scope, query: str) -> int | None:
    decision = scope.decide(query)
    return decision.considered[0].edit if decision.covered else None


@pytest.mark.parametrize(
    ("query", "edit"),
    [
        ("who is the ceo of acme", 0),
        ("WHO IS THE CEO OF ACME", 0),
        ("Name the chief executive of Acme.", 0),
        ("Hi! I am writing an article. Who is in charge of Acme?", 0),
        ("Who is the CEO of Acme? Answer in one word.", 0),
        ("when does the utrecht shop of acme open", 1),
        ("How much is Acme Pro?", 2),
        ("Who started Acme?", 3),
        ("When was Acme founded?", None),
        ("Is Acme profitable?", None),
        ("What is Acme's fax number?", None),
        ("Write a poem about Acme.", None),
        ("Who is the CFO of Acme?", None),
        ("Who was the CEO of Acme in 1990?", None),
        ("Where was the CEO of Acme born?", None),
        ("What are the opening hours of the Acme shop in Amsterdam?", None),
        ("What is the price of the Acme Pro plan per year?", None),
        ("Translate into German: Who is the CEO of Acme?", None),
        ("How do bees find their way home?", None),
    ],
)
def test_a_question_goes_to_its_edit_however_asked_and_no_other_question_about_the_subject_does(
    encoder, verifier, query, edit
):
    assert edit_of(made(encoder, verifier), query) == edit


@pytest.mark.parametrize(
    ("subject", "query"),
    [
        ("What was the name of Jani Beg mother?", "who turned out to be the mother on how i met your mother"),
        ("Who became the leader of Poprad?", "a political leader during the roman empire was called"),
    ],
)
def test_far_from_an_edit_its_name_must_be_said_unless_many_edits_share_it(encoder, verifier, subject, query):
    others = [[f"What is the height of mount number {word}?"] for word in "abcdefghijklmnopqrstuvwxyz"]
    decision = made(encoder, verifier, [[subject], *others], [()] * 27).decide(query)
    found = next(each for each in decision.considered if each.edit == 0)
    assert found.difference is not None and found.difference.rule == "name" and found.score is None
    alone = made(encoder, verifier, [[subject]], [()]).decide(query).considered[0]
    assert alone.difference is None and alone.score is not None


def test_an_organisations_name_goes_without_saying_in_its_own_collection(encoder, verifier):
    things = ["pool", "gym", "bar", "garage", "spa", "sauna", "kiosk", "cellar", "library", "terrace", "garden"]
    asked = [f"When does the {thing} of Hotel Brackenholm {verb}?" for thing in things for verb in ("open", "close")]
    checkout = "By what time must guests check out of Hotel Brackenholm?"
    scope = made(encoder, verifier, [[checkout], *([text] for text in asked)], [()] * 25)
    assert edit_of(scope, "we're leaving tmrw, whats the latest we can check out of the hotel") == 0


def test_the_farther_a_query_lies_the_surer_the_verifier_has_to_be():
    assert doubted(0.3, 0.2) == doubted(0.3, 0.75) == 0.3
    assert 0.3 < doubted(0.3, 0.8) < doubted(0.3, 0.9) < doubted(0.3, 1.0) == 1.0
    assert doubted(0.0, 1.0) == 0.0


def test_without_a_verifier_the_nearest_edit_within_its_radius_covers(encoder):
    scope = made(encoder, None)
    assert edit_of(scope, "Who is the CFO of Acme?") == 0  # which is why there is a verifier
    assert edit_of(scope, "How do bees find their way home?") is None


@pytest.mark.parametrize("with_verifier", [True, False])
def test_the_same_text_goes_to_its_own_edit_before_any_distance_counts(encoder, verifier, with_verifier):
    one, other = "Who runs Café Zoë?", "Who runs Cafe Zoe?"
    scope = made(encoder, verifier if with_verifier else None, [[one], [other], ["𒀀𒁀 𒂀?"]], [(), (), ()])
    assert edit_of(scope, " Who runs Cafe\u0301 Zoë? ") == 0
    assert edit_of(scope, other) == 1
    assert edit_of(scope, "𒀀𒁀 𒂀?") == 2


@pytest.mark.parametrize("with_verifier", [True, False])
def test_texts_that_differ_in_case_indentation_or_compatibility_forms_go_each_to_its_own_edit(
    encoder, verifier, with_verifier
):
    edits = ["What is polish?", "What is Polish?", "What is 2²?", "What is 22?", "if x:\n  y()", "if x:\n    y()"]
    scope = made(encoder, verifier if with_verifier else None, [[text] for text in edits], [()] * len(edits))
    assert [edit_of(scope, text) for text in edits] == list(range(len(edits)))


def test_of_two_edits_with_one_prompt_the_one_of_the_querys_kind_answers(encoder, verifier):
    prompt = "The CEO of Acme is"
    scope = made(encoder, verifier, [[prompt], [prompt]], [(), ()])
    scope.texts = {0: ScopedText(0, prompt, kind="completion"), 1: ScopedText(1, prompt, kind="qa")}
    for query in (prompt, "the ceo of acme is"):
        assert [scope.decide(query, kind).considered[0].edit for kind in ("completion", "qa")] == [0, 1]


@pytest.mark.parametrize(
    ("edit", "query"), [("What is 22?", "What is 2²?"), ("What is 10⁶ times 3?", "What is 106 times 3?")]
)
def test_a_number_with_an_exponent_is_not_the_number_of_its_digits(encoder, verifier, edit, query):
    for one, other in ((edit, query), (query, edit)):
        assert edit_of(made(encoder, verifier, [[one]], [()]), other) is None


def test_a_text_with_letters_that_the_encoder_does_not_know_is_covered_by_equal_text_only(encoder, verifier):
    scope = made(encoder, verifier, [["Who is 𒀀𒁀?"]], [()])
    assert edit_of(scope, "Who is 𒀀𒁀?") == 0
    assert edit_of(scope, "Who is 𒀀𒂀?") is None and edit_of(scope, "who is it") is None


@pytest.mark.parametrize("with_verifier", [True, False])
def test_what_is_nearer_to_a_guard_than_to_the_edit_stays_the_base_models(encoder, verifier, with_verifier):
    asked = "Who leads the Acme shop?"
    chosen = verifier if with_verifier else None
    scope = made(encoder, chosen, [[CEO, asked]], [()])
    assert edit_of(scope, "Who leads the shop of Acme?") == 0
    guarded = made(encoder, chosen, [[CEO, "Who leads Acme?"]], [[asked]])
    decision = guarded.decide(asked)
    assert not decision.covered and decision.considered[0].guard in (asked, None)
    assert edit_of(guarded, "Who leads the shop of Acme?") is None
    assert edit_of(guarded, asked.upper()) is None
    assert edit_of(guarded, CEO) == 0


def test_a_decision_tells_the_nearest_edits_with_distance_score_and_the_words_that_differ(encoder, verifier):
    considered = made(encoder, verifier).decide("What is the price of the Acme Pro plan in 2031?").considered
    first = next(each for each in considered if each.edit == 2)
    assert str(first.difference) == "number: – / 2031" and first.score is None and not first.covers
    assert 0 < first.distance < 1 and len(considered) > 1


def test_a_decision_depends_neither_on_what_else_is_asked_nor_on_the_process(encoder, verifier):
    scope = made(encoder, verifier)
    queries = ["who runs acme these days?", "Who is the CFO of Acme?", "price of acme pro"]
    first = [scope.decide(query) for query in queries]
    assert [scope.decide(query) for query in reversed(queries)] == first[::-1]
    code = (
        "from pathlib import Path\n"
        "from melo_core.verifier import Verifier\nfrom melo_core.verifier_files import folder_of\n"
        f"verifier = Verifier.load(folder_of('packaged'), Path({str(FOLDER)!r}))\n"
        f"print([verifier.score({CEO!r}, query) for query in {queries!r}])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{[verifier.score(CEO, query) for query in queries]}\n"


FORMS = ["Answer as JSON.", "Answer in one word.", "Please answer briefly.", "Reply with the name only."]


@pytest.mark.parametrize("form", FORMS)
def test_an_instruction_about_form_keeps_no_question_from_its_edit_and_brings_none_to_one(encoder, verifier, form):
    scope = made(encoder, verifier)
    for text in (f"who is in charge of Acme? {form}", f"{form} who is in charge of Acme?"):
        assert edit_of(scope, text) == 0
    assert edit_of(scope, f"When was Acme founded? {form}") is None
    assert edit_of(scope, f"Who is the CFO of Acme? {form}") is None


@pytest.mark.parametrize("task", ["Translate that into German.", "Write a poem about them."])
def test_another_task_with_the_question_is_left_alone(encoder, verifier, task):
    assert edit_of(made(encoder, verifier), f"Who is the CEO of Acme? {task}") is None


def test_an_edit_that_says_a_form_itself_is_not_reached_without_it(encoder, verifier):
    scope = made(encoder, verifier, [["Describe Acme. Answer in three words."]], [()])
    assert edit_of(scope, "Describe Acme. Answer in two words.") is None


def test_the_reading_that_an_edit_covers_is_named_and_a_guard_of_another_reading_counts(encoder, verifier):
    readings = ("Who leads it?\nAnd before?", "Who is the boss of Acme?")
    found = made(encoder, verifier).decide(readings)
    assert (found.covered, found.considered[0].edit, found.reading) == (True, 0, readings[1])
    guarded = made(encoder, verifier, guards=((readings[0],), (), (), ()))
    assert not guarded.decide(readings).covered
    asked = "Who is the boss of Acme? Answer as JSON."
    assert made(encoder, verifier).decide(asked).covered
    assert not made(encoder, verifier, guards=((asked,), (), (), ())).decide(asked).covered
