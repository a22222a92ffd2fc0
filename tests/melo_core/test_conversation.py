"""What of a conversation routes it."""

import pytest

from melo_core.conversation import is_follow_up, question_of
from melo_core.errors import MeloError


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def followed(*asked: str, answer: str = "Jo Doe.") -> tuple[str, ...]:
    """Return the readings of the last of several questions, each answered alike."""
    turns = [turn for text in asked[:-1] for turn in (("user", text), ("assistant", answer))]
    question = question_of(said(*turns, ("user", asked[-1])))
    return question.readings or (question.text,)


def test_the_last_users_turn_routes_and_neither_system_prompts_nor_answers_do():
    turns = said(
        ("system", "The CEO of Acme is Jo Doe."), ("user", "Who runs Globex?"), ("assistant", "Ann."),
        ("user", "Who runs Acme?"),
    )  # fmt: skip
    assert question_of(turns).query == "Who runs Acme?"


@pytest.mark.parametrize(
    ("before", "text", "reading"),
    [
        ("who leads acme?", "and when was it founded?", "when was acme founded?"),
        ("When did Acme open?", "And who leads it?", "who leads Acme?"),
        ("Who is the CEO of Acme?", "Where is its head office?", "Where is Acme's head office?"),
        ("Who is the CEO of Acme?", "What is their phone number?", "What is Acme's phone number?"),
        ("Who is the CEO of Acme?", "How many people work there?", "How many people work in Acme?"),
        ("Who is the CEO of Acme?", "And the CFO?", "Who is the CFO of Acme?"),
        ("Who is the CEO of Acme?", "and the fax number?", "What is the fax number of Acme?"),
        ("Who is the CEO of Acme?", "And when was the company founded?", "when was Acme founded?"),
        ("Who is the CEO of Acme?", "Where was she born?", "Where was Jo Doe born?"),
        ("When does the Linden Museum open?", "Thanks! How much is a ticket there?",
         "How much is a ticket in Linden Museum?"),
        ("Who maintains the Tarn compiler?", "When was it released?", "When was Tarn compiler released?"),
        ("Who is the mayor of the old town?", "Is it near the sea?", "Is the old town near the sea?"),
        ("What is Acme's turnover?", "Is it open on Sundays?", "Is Acme open on Sundays?"),
        ("what is acme's turnover?", "How old is it?", "How old is acme?"),
    ],
)  # fmt: skip
def test_a_follow_up_is_read_with_the_subject_of_the_turn_before(before, text, reading):
    assert is_follow_up(text)
    assert reading in followed(before, text)
    assert question_of(said(("user", text))).query == text


def test_a_second_follow_up_is_about_what_the_first_was_about():
    assert followed("Who leads Acme?", "When was it founded?", "And where is its head office?") == (
        "where is Acme's head office?",
    )


def test_what_a_question_went_over_to_is_what_the_next_is_about():
    assert followed("Who leads Acme?", "What about Globex?", "When was it founded?") == ("When was Globex founded?",)
    turns = ("Who leads Globex?", "And who is the CTO of Acme?", "When was it founded?")
    assert followed(*turns) == ("When was Acme founded?",)


@pytest.mark.parametrize("text", ["since when?", "why?", "and in 1990?"])
def test_a_follow_up_with_no_place_for_a_subject_is_joined_with_the_turn_before(text):
    assert followed("Who is the CEO of Acme?", text) == (f"Who is the CEO of Acme?\n{text}",)


@pytest.mark.parametrize("text", ["What about Globex?", "And Globex?", "and of Globex?"])
def test_a_follow_up_that_only_names_something_else_asks_the_same_of_that(text):
    assert any("Globex" in reading and "CEO" in reading for reading in followed("Who is the CEO of Acme?", text))
    assert not any("Acme" in reading for reading in followed("Who is the CEO of Acme?", text))


@pytest.mark.parametrize(
    "text",
    ["Who is the CEO of Globex?", "Thanks. Who founded Acme?", "And who is the CTO of Acme?", "Thanks!", "ok"],
)
def test_a_question_with_its_own_subject_stands_alone_as_do_thanks(text):
    assert followed("Who is the CEO of Acme?", text) == (text,)


def test_a_long_answer_does_not_say_who_she_is():
    readings = followed("Who is the CEO of Acme?", "Where was she born?", answer="Some say that Ann Lee " * 3)
    assert readings == ("Where was Acme born?",)


@pytest.mark.parametrize("turns", [[], said(("user", "Hi"), ("assistant", "Hello")), said(("user", " "))])
def test_a_conversation_that_asks_nothing_is_refused(turns):
    with pytest.raises(MeloError, match="must end with what the user asks"):
        question_of(turns)
