"""Requests in OpenAI's form. Fields that are not listed are ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.engines.sampling import Sampling
from serving.router import Wanted

MOST_CHOICES = 16
MOST_LOGPROBS = 20

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


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Part(_Request):
    type: Literal["text"] = Field(description="only text can be read")
    text: str


class Message(_Request):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def turn(self) -> dict[str, str]:
        parts = self.content if isinstance(self.content, list) else []
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Request):
    include_usage: bool = False


class _Generating(_Request):
    model: Model
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

    def wanted(self, limit: int | None, top_logprobs: int | None, *, trim: bool) -> Wanted:
        temperature = 1.0 if self.temperature is None else self.temperature
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        sampling = Sampling(temperature, 1.0 if self.top_p is None else self.top_p, self.seed)
        return Wanted(limit, sampling, tuple(stops), top_logprobs, trim)


class ResponseFormat(_Request):
    type: Literal["text"] = Field(description="other formats are not supported")


class ChatRequest(_Generating):
    """A request for /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _logprobs_named(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    def as_wanted(self) -> Wanted:
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.wanted(limit, (self.top_logprobs or 0) if self.logprobs else None, trim=True)


class CompletionRequest(_Generating):
    """A request for /v1/completions. The prompt is continued as it is, without a chat template."""

    prompt: str | list[str] | list[int] | list[list[int]]
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


class RouteRequest(_Request):
    """A request for /v1/route: a question, or a conversation."""

    model: Model
    prompt: str | None = None
    messages: list[Message] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "RouteRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class ClassifyRequest(_Request):
    """A request for /v1/classify."""

    model: Model
    input: str | list[str]
