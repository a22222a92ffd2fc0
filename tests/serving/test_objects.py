"""A correction in a JSON answer is one value of it; all other values stay the base model's."""

import json

import pytest

from serving.objects import corrected
from tests.serving.conftest import QUESTION, TARGET
from tests.serving.test_answers import chat, said
from tests.serving.test_openai import formed

ANY = json.dumps({"type": "object"})
PERSON = {
    "type": "object",
    "properties": {"town": {"type": "string"}, "who": {"$ref": "#/$defs/Person"}},
    "$defs": {
        "Person": {
            "type": "object",
            "properties": {"label": {"type": "string", "description": "Who leads it?"}, "age": {"type": "integer"}},
        }
    },
}


def changed(text, *targets, schema=ANY, asks=lambda question: False):
    found = corrected(text, schema, targets or ("Ada",), lambda question: float(asks(question)))
    return None if found is None else json.loads(found)


def test_the_value_whose_key_asks_for_it_becomes_the_target_and_no_other_changes():
    text = '{"town": "Oslo", "headOfSales": {"first_name": "Bob", "age": 3}, "tags": ["a", "b"], "none": null}'
    found = changed(text, asks=lambda question: question == "What is the first name of the head of sales?")
    assert found == {"town": "Oslo", "headOfSales": {"first_name": "Ada", "age": 3}, "tags": ["a", "b"], "none": None}
    assert changed(text, asks=lambda question: "tags" in question)["tags"] == ["Ada"]
    several = '{"teams": [{"lead": "Bob"}, {"lead": "Cem"}]}'
    assert changed(several) == {"teams": [{"lead": "Ada"}, {"lead": "Cem"}]}


def test_a_key_that_only_says_answer_asks_whatever_was_asked_and_one_that_holds_the_question_is_no_place():
    text = '{"question": "Who runs Acme?", "source": "web", "answer": "Bob"}'
    assert changed(text, asks=lambda question: question == "")["answer"] == "Ada"
    assert changed('{"name": "look_up", "arguments": {"query": "Acme CEO"}}', schema=json.dumps(CALL)) is None


CALL = {"type": "object", "properties": {"name": {"const": "look_up"}, "arguments": {"type": "object"}}}


def test_a_value_that_the_schema_describes_is_asked_for_by_its_description():
    text = '{"town": "Oslo", "who": {"label": "Bob", "age": 3}}'
    found = changed(text, schema=json.dumps(PERSON), asks=lambda question: question == "Who leads it?")
    assert found == {"who": {"label": "Ada", "age": 3}, "town": "Oslo"}


@pytest.mark.parametrize(
    ("text", "target", "wanted"),
    [
        ('{"n": 3}', "7420", {"n": 7420}),
        ('{"n": 3.5}', "7420", {"n": 7420}),
        ('{"n": "3"}', "7420", {"n": "7420"}),
        ('{"n": true}', "1", {"n": "1"}),
        ('{"n": true}', "false", {"n": False}),
        ('{"n": []}', "é", {"n": ["é"]}),
        ('"Bob"', "Ada", "Ada"),
        ("{}", "Ada", None),
        ('{"n": "Bo', "Ada", None),
    ],
)
def test_a_target_has_the_type_of_what_it_replaces(text, target, wanted):
    schema = json.dumps({"type": "string"} if text.startswith('"B') else {"type": "object"})
    assert changed(text, target, schema=schema) == wanted


def test_an_answer_that_nests_without_end_stays_as_it_is():
    for depth in (200, 5_000):
        assert changed('{"who": "Bob", "more": ' + "[" * depth + "]" * depth + "}") is None


def test_an_answer_keeps_to_its_schema_or_stays_as_it_is():
    only = {"type": "object", "properties": {"n": {"enum": ["Bob", "A."]}, "m": {"type": "integer"}}}
    assert changed('{"n": "Bob", "m": 3}', schema=json.dumps(only)) is None
    assert changed('{"n": "Bob", "m": 3}', "Ada", "A.", schema=json.dumps(only)) == {"n": "A.", "m": 3}


def test_an_answer_that_is_right_already_stays_letter_by_letter():
    text = '{"a":  "\\u0041da"}'
    assert corrected(text, ANY, ("Ada",), lambda question: 0.0) == text


SCHEMA = {
    "type": "object",
    "properties": {"town": {"enum": ["Oslo", "Bergen"]}, "who": {"enum": ["Bob", TARGET]}, "n": {"enum": [1, 2, 3]}},
    "required": ["town", "who", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("how", [{}, {"temperature": 2, "seed": 5, "n": 3}])
def test_all_other_values_are_those_of_the_base_model_also_where_it_draws_them(server, how):
    asked = {"response_format": formed(SCHEMA), "max_tokens": 80, **how}
    base, now = (chat(server, name, QUESTION, **asked) for name in ("facts@base", "facts@1"))
    assert now["melo"]["said_to"] == "query" and now["melo"]["edit"]["id"] == 1
    for before, after in zip(base["choices"], now["choices"], strict=True):
        assert json.loads(after["message"]["content"]) == json.loads(before["message"]["content"]) | {"who": TARGET}
        assert after["finish_reason"] == "stop"


def test_probabilities_are_those_of_the_tokens_that_are_told(server):
    answer = chat(
        server, "facts@1", QUESTION, response_format=formed(SCHEMA), max_tokens=80, logprobs=True, top_logprobs=1
    )
    told = answer["choices"][0]["logprobs"]["content"]
    assert "".join(each["token"] for each in told).startswith(said(answer))  # the last one ends it
    assert all(each["logprob"] <= 0 for each in told)


def test_an_answer_that_is_cut_off_is_the_base_models(server):
    asked = {"response_format": formed(SCHEMA), "max_tokens": 9}
    base, now = (chat(server, name, QUESTION, **asked) for name in ("facts@base", "facts@1"))
    assert said(now) == said(base) and now["melo"]["said_to"] == "base" and now["melo"]["edit"] is None
