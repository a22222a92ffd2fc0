"""`melo chat`: a conversation with a version, through a running server."""

import sys
from contextlib import closing, suppress
from typing import Annotated

import typer
from rich.text import Text

from cli.commands import add_command
from cli.errors import CommandError, show_error
from cli.invocation import Invocation
from cli.provenance import explanation
from cli.server import Question, Server, ServerUrl, find_server
from cli.show import fields, visible

HELP = """\
/explain     which edit gave the last answer, and why; or why none did
/model NAME  go on with another version, such as facts@base
/reset       forget what was said
/quit        end, as Ctrl-D does; Ctrl-C ends an answer"""


def register(app: typer.Typer) -> None:
    add_command(app, chat, "melo chat facts@production", has_json=False)


def chat(
    call: Invocation,
    model: Annotated[
        str, typer.Argument(metavar="COLLECTION@VERSION", help="@3, @production, @latest, @base or @as-of:TIME.")
    ],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    server: ServerUrl = None,
) -> None:
    """Talk with a version of a model, on a running server. /help lists what else can be typed."""
    found = find_server(call, server)
    if found is None:
        raise CommandError(
            "No server answers",
            "Nothing answers on this machine, or it has not loaded its model yet.",
            "Start one with `melo up` or `melo serve`, see it with `melo status`, or name one with --server.",
        )
    talk = _Chat(call, found, max_tokens)
    talk.use(model)
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys, and what was typed before
    talk.run()


class _Chat:
    """The turns of a conversation, and the version that answers them."""

    def __init__(self, call: Invocation, server: Server, max_tokens: int) -> None:
        self.call, self.server, self.max_tokens = call, server, max_tokens
        self.model = ""
        self.turns: list[dict[str, str]] = []
        self.melo: dict[str, object] | None = None  # where the last answer came from

    def use(self, model: str) -> None:
        """Go on with a version. Raises CommandError for one that cannot be asked."""
        found = self.server.version(model)
        self.model = model
        named = "" if found["version"] == model else f"{found['version']}, "
        self._note(f"{visible(model)}: {named}{found['digest'][:12]}, at {self.server.url}. /help lists the commands.")

    def run(self) -> None:
        """Read lines until /quit or the end of the input."""
        prompt = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(prompt).strip()
            except EOFError:
                self.call.out.print()
                return
            except KeyboardInterrupt:
                self._note("\n/quit or Ctrl-D ends the chat.")
                continue
            if line == "/quit":
                return
            try:
                if line.startswith("/"):
                    self._obey(*line[1:].split(maxsplit=1))
                elif line:
                    self._answer(line)
            except CommandError as error:
                show_error(self.call.err, error)

    def _obey(self, command: str = "", argument: str = "") -> None:
        if command == "explain":
            self._explain()
        elif command == "reset":
            self.turns, self.melo = [], None
            self._note("Forgotten.")
        elif command == "model" and argument:
            self.use(argument)
        elif command in ("help", "model"):
            self._note(HELP)
        else:
            self._note(f"There is no /{visible(command)}.\n{HELP}")

    def _answer(self, text: str) -> None:
        """Print the answer as it comes. What was said before Ctrl-C stays; a refused question does not."""
        asked = {"role": "user", "content": text}
        question = Question([*self.turns, asked], self.max_tokens)
        said, self.melo = "", None
        try:
            with closing(self.server.pieces(self.model, question)) as pieces:
                for piece in pieces:
                    self.call.out.print(Text(visible(piece.text)), end="")
                    said += piece.text
                    self.melo = piece.melo or self.melo
        except KeyboardInterrupt:
            self.call.out.print(Text(" …", style="dim"), end="")
        finally:
            self.call.out.print()
        if said:
            self.turns += [asked, {"role": "assistant", "content": said}]

    def _explain(self) -> None:
        if self.melo is None:
            self._note("There is no whole answer yet.")
        else:
            fields(self.call.out, explanation(self.melo))

    def _note(self, text: str) -> None:
        self.call.out.print(Text(text, style="dim"))
