"""Requests in OpenAI's form. Fields that are not listed are ignored."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.base.errors import InvalidRequest
from registry.base.json_bounds import Bounds
from serving.engines.sampling import Sampling
from serving.router import Wanted
from serving.tools import ToolUse

MOST_CHOICES = 16
MOST_LOGPROBS = 20
MOST_TOOLS = 128
MOST_PROMPTS = 256

Model = Annotated[
    str,
    Field(
        min_length=1,
        max_length=300,
        description="collection@production, @17, @latest or @base",
        examples=["facts@production"],
    ),
]
Stop = Annotated[str, Field(min_length=1, max_length=500)]


class ApiRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, given: Any) -> Any:
        """Let null mean that a field is not given, as clients say it that send all that they know."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


class Part(ApiRequest):
    type: Literal["text", "refusal"] = Field(description="only text can be read")
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, given: Any) -> Any:
        """Refuse other parts by their name, and read what a model refused with as its text."""
        return given if not isinstance(given, dict) else read_part(given, ("text", "refusal"))


def read_part(given: dict[str, Any], types: Sequence[str]) -> dict[str, Any]:
    """Return a part of a content with its text. Raises ValueError for a part that is none."""
    if (type := given.get("type")) not in types:
        raise ValueError(f"only text can be read, no part of type {str(type)[:40]!r}")
    return {**given, "text": given.get("refusal")} if type == "refusal" else given


class CalledFunction(ApiRequest):
    name: str
    arguments: str = Field(description="a JSON object")


class MessageCall(ApiRequest):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def turn(self) -> dict[str, Any]:
        """Return it as chat templates take it. Raises ValueError where the arguments are no JSON object."""
        try:
            arguments = Bounds().parse((self.function.arguments or "{}").encode())
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise InvalidRequest(f"The arguments of the call {self.id} are not a JSON object.")
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        }


class Message(ApiRequest):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None

    def turn(self) -> dict[str, Any]:
        """Return the message as chat templates take it."""
        turn: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": text_of(self.content),
        }
        if self.tool_calls:
            turn["tool_calls"] = [call.turn() for call in self.tool_calls]
        return turn | {key: value for key in ("name", "tool_call_id") if (value := getattr(self, key)) is not None}


def text_of(content: str | Sequence[Part] | None) -> str:
    """Return the text of a message's content."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


class Function(ApiRequest):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(ApiRequest):
    type: Literal["function"] = Field(description="only functions can be called")
    function: Function

    def told(self) -> dict[str, Any]:
        """Return the tool as chat templates take it."""
        return self.model_dump(exclude_none=True)


class NamedFunction(ApiRequest):
    name: str


class NamedTool(ApiRequest):
    """A tool that must be called; the two endpoints name it in two ways."""

    type: Literal["function"]
    function: NamedFunction | None = None
    name: str | None = None

    @property
    def chosen(self) -> str:
        return self.function.name if self.function is not None else self.name or ""


ToolChoice = Literal["auto", "none", "required"] | NamedTool


class WithTools(ApiRequest):
    tool_choice: ToolChoice | None = None

    def listed(self) -> list[dict[str, Any]]:
        """Return all tools as chat templates take them."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _choice_listed(self) -> "WithTools":
        names = {tool["function"]["name"] for tool in self.listed()}
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.chosen not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.chosen!r}, which is none of the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, and there are no tools")
        return self

    @property
    def tool_use(self) -> ToolUse:
        """Return what the model may call, and what it must."""
        tools = [] if self.tool_choice == "none" else self.listed()
        if self.tool_choice == "required":
            return ToolUse(tools, must=tools)
        if isinstance(self.tool_choice, NamedTool):
            chosen = self.tool_choice.chosen
            return ToolUse(tools, must=[tool for tool in tools if tool["function"]["name"] == chosen])
        return ToolUse(tools)


class StreamOptions(ApiRequest):
    include_usage: bool = False


class FromUser(ApiRequest):
    """A request that may name its user, who stays with one of an alias's two versions."""

    model: Model
    user: str | None = None
    safety_identifier: str | None = None

    @property
    def named_user(self) -> str | None:
        return self.user or self.safety_identifier


class _Generating(FromUser):
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def wanted(self, limit: int | None, top_logprobs: int | None, schema: str | None = None, *, trim: bool) -> Wanted:
        temperature = 1.0 if self.temperature is None else self.temperature
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        sampling = Sampling(temperature, 1.0 if self.top_p is None else self.top_p, self.seed)
        return Wanted(limit, sampling, tuple(stops), top_logprobs, trim, schema)


class JsonSchema(ApiRequest):
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(ApiRequest):
    """The form of an answer: any text, any JSON object, or JSON that keeps to a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self

    def schema_text(self) -> str | None:
        if self.type == "text":
            return None
        return json.dumps({"type": "object"} if self.json_schema is None else self.json_schema.schema_)


class ChatRequest(_Generating, WithTools):
    """A request for /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None

    def listed(self) -> list[dict[str, Any]]:
        return [tool.told() for tool in self.tools or ()]

    @model_validator(mode="after")
    def _logprobs_named(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    def as_wanted(self) -> Wanted:
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        form = None if self.response_format is None else self.response_format.schema_text()
        schema = self.tool_use.schema or form
        return self.wanted(limit, (self.top_logprobs or 0) if self.logprobs else None, schema, trim=True)


class CompletionRequest(_Generating):
    """A request for /v1/completions. The prompt is continued as it is, without a chat template."""

    prompt: (
        str
        | Annotated[list[str], Field(max_length=MOST_PROMPTS)]
        | list[int]
        | Annotated[list[list[int]], Field(max_length=MOST_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool = False

    @model_validator(mode="after")
    def _something_asked(self) -> "CompletionRequest":
        if not all(self.prompts):
            raise ValueError("a prompt is empty")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo cannot be had together with logprobs")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        given: Any = self.prompt
        several = isinstance(given, list) and given and not isinstance(given[0], int)
        return list(given) if several else [given]

    def as_wanted(self) -> Wanted:
        return self.wanted(self.max_tokens, self.logprobs, trim=False)


class RouteRequest(FromUser):
    """A request for /v1/route: a question, or a conversation."""

    prompt: str | None = None
    messages: list[Message] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "RouteRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class ClassifyRequest(FromUser):
    """A request for /v1/classify."""

    input: str | Annotated[list[str], Field(max_length=MOST_PROMPTS)]
