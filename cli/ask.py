"""`melo ask`: questions to a version, answered by a running server, or else by the model loaded in this process."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from cli.commands import add_command
from cli.errors import NEEDS_WORKER, CommandError
from cli.files.lines import lines_of
from cli.invocation import Invocation
from cli.provenance import explanation
from cli.server import OTHER_MODEL, Piece, Question, Refused, Server, ServerUrl, find_server
from cli.show import fields, visible

AT_ONCE = 8  # questions that a server is asked at the same time


def register(app: typer.Typer) -> None:
    add_command(app, ask, 'melo ask facts@production "Who runs Acme?" --explain')


def ask(
    call: Invocation,
    model: Annotated[
        str, typer.Argument(metavar="COLLECTION@VERSION", help="@3, @production, @latest, @base or @as-of:TIME.")
    ],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to ask.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with a prompt a line; - is the standard input.")] = None,
    conversation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='JSON: [{"role": "user", "content": "…"}, …], the last to answer.'),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say which edit answered, and why.")] = False,
    completion: Annotated[bool, typer.Option("--completion", help="Continue the prompt; not a question.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")] = 64,
    server: ServerUrl = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Rebuild the version from the record here; ask no server.")
    ] = False,
) -> None:
    """Ask a version of a model: a running server, else (or with --in-process) the model loaded here."""
    if in_process and server:
        raise CommandError("Two ways to answer", "--in-process asks no server.", "Leave out it, or --server.")
    asked = _questions(prompts or [], file, conversation, max_tokens, completion)
    found = None if in_process else find_server(call, server)
    if found is None and not in_process:
        call.err.print("No server answers on this machine (`melo up` starts one): the model is loaded here.")
    show = _Shown(call, explain, titled=len(asked) > 1)
    if found is not None:
        try:
            _from_server(call, found, model, asked, show)
            return
        except Refused as error:
            if error.code != OTHER_MODEL or server or call.settings.serve_url:
                raise
            call.err.print(f"{visible(error.detail)} For this question it is loaded here.")
    (answers,) = in_this_process(call, [model], asked)
    call.emit(answers, lambda: show.all(answers))


def in_this_process(call: Invocation, models: Sequence[str], asked: Sequence[Question]) -> list[list[dict[str, Any]]]:
    """Return each model's answers. That needs the worker's package, which is found by an entry point, not imported."""
    for entry in entry_points(group="melo.answers"):
        said: list[list[dict[str, Any]]] = entry.load()(call, models, asked)
        return said
    raise CommandError("Not installed", "Asking a version needs the worker's package.", f"Run: {NEEDS_WORKER}")


class _Shown:
    """Answers on the terminal: under their questions where there are several, and explained where that is wanted."""

    def __init__(self, call: Invocation, explain: bool, titled: bool) -> None:
        self.out, self.explain, self.titled = call.out, explain, titled

    def all(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            if self.titled:
                self.out.print(Text(visible(record["prompt"]), style="dim"))
            self.out.print(Text(visible(record["answer"])))
            self.provenance(record["melo"])

    def stream(self, pieces: Iterator[Piece]) -> None:
        melo = None
        for piece in pieces:
            self.out.print(Text(visible(piece.text)), end="")
            melo = piece.melo or melo
        self.out.print()
        if melo:
            self.provenance(melo)

    def provenance(self, melo: dict[str, Any]) -> None:
        if self.explain:
            fields(self.out, explanation(melo))


def _from_server(call: Invocation, server: Server, model: str, asked: Sequence[Question], show: _Shown) -> None:
    if len(asked) == 1 and not call.as_json:
        show.stream(server.pieces(model, asked[0]))
        return
    records = []
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with call.err.status("answering") as spinner:
            for question, said in zip(asked, pool.map(lambda each: server.answer(model, each), asked), strict=True):
                records.append({"prompt": question.prompt, "answer": said.text, "melo": said.melo})
                spinner.update(f"answering: {len(records)} of {len(asked)}")
    finally:
        pool.shutdown(cancel_futures=True)
    call.emit(records, lambda: show.all(records))


def _questions(
    prompts: Sequence[str], file: Path | None, conversation: Path | None, max_tokens: int, completion: bool
) -> list[Question]:
    """Return what is asked. Raises CommandError."""
    texts = [*prompts, *(lines_of(file) if file else [])]
    if conversation:
        if texts or completion:
            raise CommandError(
                "Too much to ask", "--conversation excludes prompts and --completion.", "Leave them out."
            )
        return [Question(_messages(conversation), max_tokens)]
    if not texts or not all(text.strip() for text in texts):
        raise CommandError("Nothing to ask", "A prompt is missing or empty.", 'Try: melo ask facts "Who runs Acme?"')
    return [Question.of(text, max_tokens, continues=completion) for text in texts]


def _messages(file: Path) -> list[dict[str, str]]:
    """Read the turns of a conversation. Raises CommandError."""
    shown = '[{"role": "user", "content": "Who runs Acme?"}]'
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError("The conversation cannot be read", f"{file}: {error}.", f"Write {shown}.") from None
    turns = found if isinstance(found, list) else []
    if not turns or not all(
        isinstance(t, dict) and all(isinstance(t.get(n), str) for n in ("role", "content")) for t in turns
    ):
        raise CommandError("The conversation cannot be read", f"{file} is not a list of turns.", f"Write {shown}.")
    return turns
