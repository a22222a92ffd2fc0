"""Calls of tools are found in answers, and what is no call stays text."""

import json

import pytest

from serving.router import Piece
from serving.shapes import ChatShape, ResponseShape, Said, Usage
from serving.tools import ToolUse, tool_calls
from tests.melo_core.conftest import tiny_tokenizer

USE = ToolUse([{"type": "function", "function": {"name": "look_up"}}])
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"of": "Acme", "deep": {"a": 1}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "rest", "names"),
    [
        (CALL, "", ["look_up"]),
        (f"Let me see.\n{CALL}\n{CALL}", "Let me see.", ["look_up", "look_up"]),
        (CALL.removesuffix("</tool_call>"), "", ["look_up"]),
        ("  It is 5 o'clock. ", "  It is 5 o'clock. ", []),
        ("<tool_call>{no json}</tool_call>", "<tool_call>{no json}</tool_call>", []),
        ('<tool_call>{"title": "x"}</tool_call>', '<tool_call>{"title": "x"}</tool_call>', []),
    ],
)
def test_calls(text, rest, names):
    said, calls = tool_calls(tiny_tokenizer(), USE, text, [])
    assert (said, [call.name for call in calls]) == (rest, names)
    assert all(json.loads(call.arguments) == {"of": "Acme", "deep": {"a": 1}} for call in calls)
    assert len({call.id for call in calls}) == len(calls)


class Parses:
    """A router's part that shapes need."""

    def parsed(self, use, text, ids):
        return tool_calls(tiny_tokenizer(), use, text, ids)


def test_calls_are_told_in_both_forms():
    said = Said(f"Let me see.{CALL}", [], "stop")
    chat = ChatShape(Parses(), "m", "1", tools=USE, top_logprobs=None, with_usage=False)
    (choice,) = chat.whole([said], Usage(1, 2))["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "Let me see."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "look_up"
    assert not list(chat.more(0, Piece(said.text)))  # held back: it may become a call
    deltas = [json.loads(event["data"])["choices"][0] for event in chat.end(0, said, {})]
    assert [list(each["delta"]) for each in deltas] == [["content"], ["tool_calls"], []]
    assert deltas[-1]["finish_reason"] == "tool_calls"

    response = ResponseShape(Parses(), "m", "1", tools=USE, given={})
    whole = response.whole([said], Usage(1, 2))
    assert [item["type"] for item in whole["output"]] == ["message", "function_call"]
    told = [*response.begin(0), *response.more(0, Piece(said.text)), *response.end(0, said, {})]
    events = [json.loads(event["data"]) for event in told]
    assert [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"] == [
        "message", "function_call",
    ]  # fmt: skip
