"""What of a conversation routes it."""

import pytest

from melo_core.conversation import is_follow_up, question_of
from melo_core.errors import MeloError


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_the_last_users_turn_routes_and_neither_system_prompts_nor_answers_do():
    turns = said(
        ("system", "The CEO of Acme is Jo Doe."), ("user", "Who runs Globex?"), ("assistant", "Ann."),
        ("user", "Who runs Acme?"),
    )  # fmt: skip
    assert question_of(turns) == "Who runs Acme?"


@pytest.mark.parametrize(
    "text",
    ["and who before her?", "And where was she born?", "How old is he?", "and the fax number?", "since when?", "why?",
     "what is their phone number?", "Is it open on Sundays?"],
)  # fmt: skip
def test_a_follow_up_without_a_subject_is_joined_with_the_turn_before(text):
    assert is_follow_up(text)
    turns = said(("user", "Who is the CEO of Acme?"), ("assistant", "Jo Doe."), ("user", text))
    assert question_of(turns) == f"Who is the CEO of Acme?\n{text}"
    assert question_of(said(("user", text))) == text


@pytest.mark.parametrize(
    "text", ["Who is the CEO of Globex?", "Thanks. Who founded Acme?", "And who is the CTO of Acme?"]
)
def test_a_question_with_its_own_subject_stands_alone(text):
    assert question_of(said(("user", "Who is the CEO of Acme?"), ("assistant", "Jo Doe."), ("user", text))) == text


@pytest.mark.parametrize("turns", [[], said(("user", "Hi"), ("assistant", "Hello")), said(("user", " "))])
def test_a_conversation_that_asks_nothing_is_refused(turns):
    with pytest.raises(MeloError, match="must end with what the user asks"):
        question_of(turns)
