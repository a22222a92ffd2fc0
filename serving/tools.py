"""Calls of tools that a model makes in its answer."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from transformers import PreTrainedTokenizerBase

HERMES = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|$)", re.DOTALL)


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called. arguments: JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolUse:
    """The tools that a model may call, as chat templates take them; of `must` it has to call one."""

    tools: Sequence[dict[str, Any]] = ()
    must: Sequence[dict[str, Any]] = ()

    @property
    def schema(self) -> str | None:
        """The JSON schema of the call that must be made; None: there need be none."""
        if not self.must:
            return None
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool["function"]["name"]},
                    "arguments": tool["function"].get("parameters") or {"type": "object"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.must
        ]
        return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})


NO_TOOLS = ToolUse()


def tool_calls(
    tokenizer: PreTrainedTokenizerBase, use: ToolUse, text: str, ids: Sequence[int]
) -> tuple[str, list[ToolCall]]:
    """Split an answer into its text and the calls in it.

    A call that must be made is the whole answer. Otherwise the tokenizer's own response template says how a model
    writes calls; where there is none, they are read as Hermes, Qwen and SmolLM write them: JSON between <tool_call>
    tags. What is no such call stays text.
    """
    if use.must:
        made = _read(text)
        return ("", [made]) if made else (text, [])
    if getattr(tokenizer, "response_template", None) is not None:
        said: dict[str, Any] = tokenizer.parse_response(list(ids))
        found = [call.get("function", call) for call in said.get("tool_calls") or ()]
        return str(said.get("content") or ""), [call for each in found if (call := _call(each)) is not None]
    calls: list[ToolCall] = []

    def taken(found: re.Match[str]) -> str:
        call = _read(found[1])
        if call is None:
            return found[0]
        calls.append(call)
        return ""

    rest = HERMES.sub(taken, text)
    return rest.strip() if calls else rest, calls


def _read(text: str) -> ToolCall | None:
    try:
        return _call(json.loads(text))
    except (ValueError, RecursionError):  # a model writes what it likes
        return None


def _call(said: Any) -> ToolCall | None:
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return None
    arguments = said.get("arguments", said.get("parameters", {}))
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{uuid4().hex[:24]}", said["name"], written)
