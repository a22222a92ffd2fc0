"""The forms in which OpenAI's endpoints tell answers."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from serving.engines.port import Token
from serving.refusals import refused
from serving.router import Piece, Router
from serving.tools import ToolCall, ToolUse

Event = dict[str, str]


@dataclass
class Said:
    """An answer, or what there is of it."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    ended: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.ended = piece.ended or self.ended


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt: int
    completion: int

    def completions(self) -> dict[str, int]:
        """Return them as the completions endpoints name them."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class Shape(Protocol):
    """Tells answers, by the number of the choice."""

    id: str  # of the response
    model: str  # as it was asked for

    def whole(self, said: Sequence[Said], usage: Usage) -> dict[str, Any]:
        """Return the body of a whole response."""

    def begin(self, index: int) -> Iterable[Event]:
        """Return the events before a choice's first text."""

    def more(self, index: int, piece: Piece) -> Iterable[Event]:
        """Return the events of new text."""

    def end(self, index: int, said: Said, more: Mapping[str, Any]) -> Iterable[Event]:
        """Return the events after a choice's last text. more: what is told with the last choice."""

    def finish(self, said: Sequence[Said], usage: Usage, melo: Mapping[str, Any]) -> Iterable[Event]:
        """Return the last events."""

    def broken(self, error: Exception) -> Iterable[Event]:
        """Return the events where answering fails midway."""


def new_id(prefix: str) -> str:
    """Return a response's identity."""
    return f"{prefix}{uuid4().hex}"


class _Completions:
    """What chat and text completions have in common."""

    whole_name = chunk_name = ""

    def __init__(self, router: Router, model: str, id: str, *, top_logprobs: int | None, with_usage: bool) -> None:
        self.router, self.top_logprobs, self.with_usage = router, top_logprobs, with_usage
        self.id, self.model = id, model
        self.top = {"id": id, "created": int(time.time()), "model": model}

    def event(self, choices: list[dict[str, Any]], **more: Any) -> Event:
        usage = {"usage": None} if self.with_usage else {}
        return {"data": json.dumps({**self.top, "object": self.chunk_name, "choices": choices, **usage, **more})}

    def finish(self, said: Sequence[Said], usage: Usage, melo: Mapping[str, Any]) -> Iterable[Event]:
        if self.with_usage:
            yield self.event([], usage=usage.completions())
        yield {"data": "[DONE]"}

    def broken(self, error: Exception) -> Iterable[Event]:
        yield {"data": json.dumps(refused(error)[1])}
        yield {"data": "[DONE]"}


class ChatShape(_Completions):
    """/v1/chat/completions. With tools an answer is told when it is whole: it may be a call."""

    whole_name, chunk_name = "chat.completion", "chat.completion.chunk"

    def __init__(self, router: Router, model: str, id: str, *, tools: ToolUse, **given: Any) -> None:
        super().__init__(router, model, id, **given)
        self.tools = tools

    def whole(self, said: Sequence[Said], usage: Usage) -> dict[str, Any]:
        choices = []
        for index, each in enumerate(said):
            text, calls = _parsed(self.router, self.tools, each)
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if calls:
                message |= {"content": text or None, "tool_calls": [_call(call) for call in calls]}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._logprobs(each.tokens),
                    "finish_reason": "tool_calls" if calls else each.ended,
                }
            )
        return {**self.top, "object": self.whole_name, "choices": choices, "usage": usage.completions()}

    def begin(self, index: int) -> Iterable[Event]:
        yield self._delta(index, {"role": "assistant", "content": ""})

    def more(self, index: int, piece: Piece) -> Iterable[Event]:
        if not self.tools.tools and (piece.text or self.top_logprobs is not None):
            yield self._delta(index, {"content": piece.text}, piece.tokens)

    def end(self, index: int, said: Said, more: Mapping[str, Any]) -> Iterable[Event]:
        calls: list[ToolCall] = []
        if self.tools.tools:
            text, calls = _parsed(self.router, self.tools, said)
            if text:
                yield self._delta(index, {"content": text}, said.tokens)
            if calls:
                numbered = [{"index": number, **_call(call)} for number, call in enumerate(calls)]
                yield self._delta(index, {"tool_calls": numbered})
        yield self._delta(index, {}, ended="tool_calls" if calls else said.ended, **more)

    def _delta(
        self, index: int, delta: dict[str, Any], tokens: Sequence[Token] = (), ended: str | None = None, **more: Any
    ) -> Event:
        logprobs = self._logprobs(tokens) if tokens else None
        return self.event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ended}], **more)

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        return {
            "content": [
                {**self._spelt(token.id, token.logprob), "top_logprobs": [self._spelt(*other) for other in token.top]}
                for token in tokens
            ],
            "refusal": None,
        }

    def _spelt(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self.router.spelt(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _parsed(router: Router, use: ToolUse, said: Said) -> tuple[str, list[ToolCall]]:
    return router.parsed(use, said.text, [token.id for token in said.tokens]) if use.tools else (said.text, [])


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class TextShape(_Completions):
    """/v1/completions. echo: the prompts, where they are told before the answers."""

    whole_name = chunk_name = "text_completion"

    def __init__(self, router: Router, model: str, id: str, *, echo: Sequence[str] | None, **given: Any) -> None:
        super().__init__(router, model, id, **given)
        self.echo = echo

    def whole(self, said: Sequence[Said], usage: Usage) -> dict[str, Any]:
        before = self.echo or [""] * len(said)
        choices = [self._choice(i, before[i] + each.text, each.tokens, each.ended) for i, each in enumerate(said)]
        return {**self.top, "object": self.whole_name, "choices": choices, "usage": usage.completions()}

    def begin(self, index: int) -> Iterable[Event]:
        if self.echo is not None:
            yield self.event([self._choice(index, self.echo[index])])

    def more(self, index: int, piece: Piece) -> Iterable[Event]:
        if piece.text or self.top_logprobs is not None:
            yield self.event([self._choice(index, piece.text, piece.tokens)])

    def end(self, index: int, said: Said, more: Mapping[str, Any]) -> Iterable[Event]:
        yield self.event([self._choice(index, "", ended=said.ended)], **more)

    def _choice(self, index: int, text: str, tokens: Sequence[Token] = (), ended: str | None = None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": self._logprobs(tokens), "finish_reason": ended}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        texts = [self.router.spelt(token.id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.router.spelt(id): p for id, p in token.top} for token in tokens],
            "text_offset": [sum(map(len, texts[:i])) for i in range(len(texts))],
        }


class ResponseShape:
    """/v1/responses. Nothing is kept: what was said before is sent with each request. given: the request's fields."""

    def __init__(self, router: Router, model: str, id: str, *, tools: ToolUse, given: Mapping[str, Any]) -> None:
        self.router, self.tools, self.model, self.id, self.given = router, tools, model, id, given
        self.created, self.message, self.number = int(time.time()), new_id("msg_"), 0

    def whole(self, said: Sequence[Said], usage: Usage) -> dict[str, Any]:
        (one,) = said
        text, calls = _parsed(self.router, self.tools, one)
        cut_off = one.ended == "length"
        status = "incomplete" if cut_off else "completed"
        output = [{**self._item(text), "status": status}] if text or not calls else []
        output += [_function_call(call) for call in calls]
        return self._response(
            status,
            output,
            incomplete_details={"reason": "max_output_tokens"} if cut_off else None,
            usage={
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.completion,
            },
        )

    def begin(self, index: int) -> Iterable[Event]:
        yield self._event("response.created", response=self._response("in_progress", []))
        yield self._event("response.in_progress", response=self._response("in_progress", []))
        if not self.tools.tools:
            yield from self._open()

    def more(self, index: int, piece: Piece) -> Iterable[Event]:
        if piece.text and not self.tools.tools:
            yield self._text("response.output_text.delta", delta=piece.text, logprobs=[])

    def end(self, index: int, said: Said, more: Mapping[str, Any]) -> Iterable[Event]:
        text, calls = _parsed(self.router, self.tools, said)
        if self.tools.tools and (text or not calls):
            yield from self._open()
            yield self._text("response.output_text.delta", delta=text, logprobs=[])
        if not self.tools.tools or text or not calls:
            yield self._text("response.output_text.done", text=text, logprobs=[])
            yield self._text("response.content_part.done", part=_text_part(text))
            yield self._event("response.output_item.done", output_index=0, item=self._item(text))
        for place, call in enumerate(calls, 1 if text else 0):
            item = _function_call(call)
            begun = {**item, "arguments": "", "status": "in_progress"}
            at = {"output_index": place, "item_id": item["id"]}
            yield self._event("response.output_item.added", output_index=place, item=begun)
            yield self._event("response.function_call_arguments.delta", **at, delta=call.arguments)
            yield self._event("response.function_call_arguments.done", **at, arguments=call.arguments, name=call.name)
            yield self._event("response.output_item.done", output_index=place, item=item)

    def finish(self, said: Sequence[Said], usage: Usage, melo: Mapping[str, Any]) -> Iterable[Event]:
        response = {**self.whole(said, usage), "melo": melo}
        yield self._event(f"response.{response['status']}", response=response)

    def broken(self, error: Exception) -> Iterable[Event]:
        told = refused(error)[1]["error"]
        failed = {"code": "server_error", "message": told["message"]}
        yield self._event("response.failed", response=self._response("failed", [], error=failed))

    def _open(self) -> Iterable[Event]:
        item = {**self._item(""), "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._text("response.content_part.added", part=_text_part(""))

    def _item(self, text: str) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self.message,
            "status": "completed",
            "role": "assistant",
            "content": [_text_part(text)],
        }

    def _text(self, type: str, **more: Any) -> Event:
        return self._event(type, item_id=self.message, output_index=0, content_index=0, **more)

    def _event(self, type: str, **more: Any) -> Event:
        self.number += 1
        return {"event": type, "data": json.dumps({"type": type, "sequence_number": self.number - 1, **more})}

    def _response(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **self.given,
            **more,
        }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function_call(call: ToolCall) -> dict[str, Any]:
    told = asdict(call)
    return {"type": "function_call", "id": f"fc_{call.id}", "call_id": told.pop("id"), "status": "completed", **told}
