"""What of a question only says what form the answer is to have."""

import pytest

from melo_core.instructions import without_instructions

QUESTION = "Who is the CEO of Acme?"


@pytest.mark.parametrize(
    "said",
    [
        "Answer as JSON.",
        "Answer in one word.",
        "Please answer briefly.",
        "Reply in JSON format only.",
        "Be brief.",
        "Keep it short.",
        "Return JSON.",
        "JSON only.",
        "In one sentence, please.",
        "Just the name.",
        "No explanation.",
        "Please respond in a single sentence, without explanation.",
        "Your answer should be in JSON.",
        "Use bullet points.",
        "Answer in at most 5 words.",
        "Answer with only the name and nothing else.",
        "Don't add any extra text.",
        "Please keep your reply short and to the point.",
        "Give me a one-word answer.",
        "Put the answer in a table.",
    ],
)
def test_an_instruction_about_form_is_left_out_behind_and_before_a_question(said):
    for text in (
        f"{QUESTION} {said}",
        f"{said} {QUESTION}",
        f"{said.rstrip('.')}: {QUESTION}",
        f"{QUESTION}\n{said}",
        f"{QUESTION} ({said.rstrip('.')})",
    ):
        assert without_instructions(text) == QUESTION


@pytest.mark.parametrize(
    "text",
    [
        "Who is the CEO of Acme, in one word?",
        "In one word, who is the CEO of Acme?",
        "Briefly, who is the CEO of Acme?",
        "who is the CEO of Acme in one word?",
        "Tell me in one sentence who is the CEO of Acme?",
        "who is the CEO of Acme answer in one word?",
        "Who is the CEO of Acme - answer as JSON?",
    ],
)
def test_it_is_left_out_of_a_sentence_too(text):
    assert without_instructions(text).casefold() == QUESTION.casefold()


@pytest.mark.parametrize(
    "said",
    [
        "Translate it into German.",
        "Write a poem about them.",
        "Write a letter.",
        "Use it in a sentence.",
        "Explain why.",
        "Answer in German.",
        "Answer as a pirate.",
        "And when was it founded?",
        "Count the letters.",
        "Give the date.",
        "How many words is that?",
        "Print the first word.",
        "Convert it to JSON.",
        "Answer incorrectly.",
        "Not the CFO.",
        "Give me the number of employees.",
        "Reverse the letters.",
        "Reply to the customer.",
    ],
)
def test_what_asks_for_something_else_stays(said):
    assert without_instructions(f"{QUESTION} {said}") == f"{QUESTION} {said}"


@pytest.mark.parametrize(
    "text",
    [
        "How do I export my data as JSON?",
        "How do I export my data, as JSON?",
        "What does JSON stand for?",
        "Which is shorter, one word or two words?",
        "How long should a brief answer be?",
        "Answer as JSON.",
        "",
        "Please answer the phone.",
        "What is the name of the CEO?",
    ],
)
def test_a_question_about_form_is_kept(text):
    assert without_instructions(text) == text
