"""The form of requests to OpenAI's Responses."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serving.engines.sampling import Sampling
from serving.router import Wanted
from serving.schemas import (
    MOST_TOOLS,
    ApiRequest,
    CalledFunction,
    FromUser,
    Function,
    MessageCall,
    WithTools,
    read_part,
)


class InputPart(ApiRequest):
    type: Literal["input_text", "output_text", "text", "refusal"] = Field(description="only text can be read")
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, given: Any) -> Any:
        types = ("input_text", "output_text", "text", "refusal")
        return given if not isinstance(given, dict) else read_part(given, types)


class InputItem(ApiRequest):
    """One item of what was said: a message, a call of a function, or what it gave."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "InputItem":
        needed = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "function_call_output": ("call_id", "output"),
            "reasoning": (),
        }[self.type]
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"a {self.type} needs {' and '.join(missing)}")
        return self

    def turn(self) -> dict[str, Any] | None:
        """Return the item as chat templates take it; None: not told to the model."""
        match self.type:
            case "message":
                return {"role": "system" if self.role == "developer" else self.role, "content": _joined(self.content)}
            case "function_call":
                called = CalledFunction(name=self.name or "", arguments=self.arguments or "")
                call = MessageCall(id=self.call_id or "", function=called)
                return {"role": "assistant", "content": "", "tool_calls": [call.turn()]}
            case "function_call_output":
                return {"role": "tool", "content": _joined(self.output), "tool_call_id": self.call_id}
        return None


def _joined(content: str | Sequence[InputPart] | None) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


class TextFormat(ApiRequest):
    type: Literal["text", "json_object", "json_schema"] = "text"
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def schema_text(self) -> str | None:
        return None if self.type == "text" else json.dumps(self.schema_ or {"type": "object"})


class TextOptions(ApiRequest):
    format: TextFormat = TextFormat(type="text", schema=None)


class ResponseTool(Function):
    type: Literal["function"] = Field(description="only functions can be called")

    def told(self) -> dict[str, Any]:
        """Return the tool as chat templates take it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class ResponseRequest(WithTools, FromUser):
    """A request for /v1/responses. Nothing is kept between requests."""

    input: Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool = False
    text: TextOptions = TextOptions()
    tools: Annotated[list[ResponseTool], Field(max_length=MOST_TOOLS)] = Field(default_factory=list)
    previous_response_id: str | None = Field(None, description="refused")
    conversation: str | dict[str, Any] | None = Field(None, description="refused")
    background: bool = Field(False, description="true is refused")
    metadata: dict[str, str] | None = None

    @model_validator(mode="after")
    def _by_itself(self) -> "ResponseRequest":
        if self.previous_response_id or self.conversation or self.background:
            raise ValueError("nothing is kept between requests: send what was said before in input")
        return self

    def listed(self) -> list[dict[str, Any]]:
        return [tool.told() for tool in self.tools]

    def turns(self) -> list[dict[str, Any]]:
        """Return the conversation as chat templates take it."""
        before = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*before, {"role": "user", "content": self.input}]
        return [*before, *(turn for item in self.input if (turn := item.turn()) is not None)]

    def as_wanted(self) -> Wanted:
        temperature, top_p = (1.0 if given is None else given for given in (self.temperature, self.top_p))
        sampling = Sampling(temperature, top_p)
        return Wanted(self.max_output_tokens, sampling, schema=self.tool_use.schema or self.text.format.schema_text())

    def repeated(self) -> dict[str, Any]:
        """Return the fields that the response says again."""
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": self.text.model_dump(exclude_none=True, by_alias=True),
            "tool_choice": self.model_dump(include={"tool_choice"}, exclude_none=True).get("tool_choice", "auto"),
            "tools": [{**tool.model_dump(), "strict": False} for tool in self.tools],
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
        }
