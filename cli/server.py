"""The server that answers questions, asked over OpenAI's API: found, and its answers whole or piece by piece."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from cli.errors import CommandError

if TYPE_CHECKING:
    import httpx

    from cli.invocation import Invocation
    from registry.versions.schemas import ShadowReport

ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="The server to ask. Default: MELO_SERVE_URL, the one on this machine."
    ),
]
PROBE_SECONDS = 3
CONNECT_SECONDS, ANSWER_SECONDS = 10, 600  # an answer may wait for a slot, and for a long prompt
NO_SUCH_PATH = "http_error"
OTHER_MODEL = "other_model"  # the server has another base model in memory
TITLES = {401: "The key is not valid", 403: "Not allowed", 404: "Not found", 429: "The server is busy"}


class Refused(CommandError):
    """The server refused. code: why, for programs."""

    def __init__(self, title: str, detail: str, code: str) -> None:
        super().__init__(title, detail)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What is asked: a conversation whose last turn is to be answered, or a text to continue."""

    messages: Sequence[Mapping[str, str]]
    max_tokens: int | None = None  # None: what the model's window leaves
    continues: bool = False  # the last message's text is continued as it is

    @classmethod
    def of(cls, text: str, max_tokens: int | None = None, *, continues: bool = False) -> "Question":
        return cls([{"role": "user", "content": text}], max_tokens, continues)

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]

    @property
    def stands_alone(self) -> bool:
        """Tell whether it is a user's only turn."""
        return [turn["role"] for turn in self.messages] == ["user"]


@dataclass(frozen=True)
class Piece:
    """A part of an answer; the last one says where the answer came from."""

    text: str
    melo: dict[str, Any] | None = None


@dataclass(frozen=True)
class Server:
    """A server at an address."""

    url: str
    key: str | None = None

    def is_ready(self) -> bool:
        """Tell whether a server of this project answers there."""
        import httpx

        try:
            return "model" in httpx.get(f"{self.url}/health", timeout=PROBE_SECONDS).json()
        except (httpx.HTTPError, ValueError):
            return False

    def version(self, model: str) -> dict[str, Any]:
        """Return the version and digest that a name refers to now. Raises CommandError."""
        return self._post("/v1/route", {"model": model, "prompt": "?"})

    def answer(self, model: str, question: Question) -> Piece:
        """Return a whole answer. Raises CommandError."""
        found = self._post(*_request(model, question))
        (choice,) = found["choices"]
        return Piece(choice["text"] if question.continues else choice["message"]["content"], found["melo"])

    def pieces(self, model: str, question: Question) -> Generator[Piece, None, None]:
        """Yield an answer as it comes. Raises CommandError."""
        import httpx
        from httpx_sse import SSEError, connect_sse

        path, body = _request(model, question)
        with _answering(self.url), self._client() as client:
            with connect_sse(client, "POST", path, json={**body, "stream": True}) as source:
                if source.response.is_error:
                    source.response.read()
                    raise _refusal(source.response)
                try:
                    for event in source.iter_sse():
                        if event.data == "[DONE]":
                            return
                        yield from _pieces(json.loads(event.data), continues=question.continues)
                except SSEError as error:
                    raise httpx.DecodingError(str(error)) from error
            raise httpx.ReadError("the answer broke off")

    def shadow_report(self, alias: str) -> "ShadowReport":
        """Return what comparing an alias's shadow found. Raises CommandError."""
        from registry.versions.schemas import ShadowReport

        with _answering(self.url), self._client() as client:
            answer = client.get(f"/v1/shadow/{quote(alias, safe='@')}")
            if answer.is_error:
                raise _refusal(answer)
            return ShadowReport.model_validate_json(answer.content)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with _answering(self.url), self._client() as client:
            answer = client.post(path, json=body)
            if answer.is_error:
                raise _refusal(answer)
            found: dict[str, Any] = answer.json()
            return found

    def _client(self) -> "httpx.Client":
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = httpx.Timeout(CONNECT_SECONDS, read=ANSWER_SECONDS)
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout)


def find_server(call: "Invocation", named: str | None) -> Server | None:
    """Return the named server, else this machine's: that of MELO_HOME's stack, or the one at MELO_SERVE_PORT.

    Returns None where none is named and none answers here.
    """
    url = named or call.settings.serve_url
    if url:
        return server_at(call, url)
    here = call.stack.serve_url if call.stack else f"http://127.0.0.1:{call.settings.serve_port}"
    local = server_at(call, here) if here else None
    return local if local and local.is_ready() else None


def server_at(call: "Invocation", url: str) -> Server:
    """Return the server at an address, which may end in /v1, with the key to send to it."""
    return Server(url.rstrip("/").removesuffix("/v1"), call.key_for(url))


def _request(model: str, question: Question) -> tuple[str, dict[str, Any]]:
    """Return path and body. The most probable tokens are taken, so that an answer can be had again."""
    limit = {} if question.max_tokens is None else {"max_tokens": question.max_tokens}
    body: dict[str, Any] = {"model": model, "temperature": 0, **limit}
    if question.continues:
        return "/v1/completions", {**body, "prompt": question.prompt}
    return "/v1/chat/completions", {**body, "messages": list(question.messages)}


def _pieces(chunk: Mapping[str, Any], *, continues: bool) -> Iterator[Piece]:
    if "error" in chunk:
        raise Refused("The answer broke off", str(chunk["error"]["message"]), str(chunk["error"]["code"]))
    for choice in chunk["choices"]:
        text = choice["text"] if continues else choice["delta"].get("content")
        yield Piece(text or "", chunk.get("melo"))


def _refusal(answer: "httpx.Response") -> CommandError:
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        code = NO_SUCH_PATH
    if code == NO_SUCH_PATH:
        return CommandError(
            "Not a server of MELO",
            f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}.",
            "Check --server and MELO_SERVE_URL: the address is that of `melo serve`.",
        )
    return Refused(TITLES.get(answer.status_code, "The model cannot answer"), message, code)


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Raise CommandError, with a remedy, if no answer comes or it cannot be read."""
    import httpx

    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise CommandError("No address", f"{url!r} is none of a server.", "Write it as http://HOST:PORT.") from None
    except httpx.ConnectError:
        raise CommandError(
            "No server answers",
            f"Nothing answers at {url}.",
            "Start one with `melo up` or `melo serve`, or name another with --server or MELO_SERVE_URL.",
        ) from None
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise CommandError(
            "The answer broke off", f"{url}: {str(error) or type(error).__name__}.", "Look at its log, and ask again."
        ) from None
