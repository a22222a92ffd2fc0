"""The commands of `melo` that need a model: ask, worker and demo. Heavy imports wait until a command is called."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.commands import add_command
from cli.errors import CommandError
from cli.files import lines_of
from cli.invocation import Invocation
from cli.show import fields
from worker.calibrate import calibrate
from worker.record import record_of
from worker.replay import register as register_replay
from worker.verifier.command import register as register_verifier

if TYPE_CHECKING:
    from melo_core.edited_model import Answer
    from melo_core.scope import Considered
    from worker.loader import LoadedVersion


def register(app: typer.Typer) -> None:
    """Add the commands. Raises ModuleNotFoundError where a dependency is not installed."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    add_command(app, ask, 'melo ask facts@production "Who runs Acme?" --explain')
    add_command(app, worker, "melo worker --devices 0,1 --model smollm2-135m-instruct", has_json=False)
    add_command(app, demo, "melo demo --json figures.json", has_json=False)
    add_command(app, calibrate, "melo calibrate --pairs rephrases.jsonl --plot scope.png")
    register_replay(app)
    register_verifier(app)


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
) -> None:
    """Ask a version of a model, rebuilt from the record."""
    asked = [*(prompts or []), *(lines_of(file) if file else [])]
    messages = _messages(conversation) if conversation else []
    if messages and (asked or completion):
        raise CommandError("Too much to ask", "--conversation excludes prompts and --completion.", "Leave them out.")
    if not messages and (not asked or not all(prompt.strip() for prompt in asked)):
        raise CommandError("Nothing to ask", "A prompt is missing or empty.", 'Try: melo ask facts "Who runs Acme?"')
    from melo_core.errors import MeloError

    kind = "completion" if completion else "qa"
    try:
        (loaded,) = _load(call, model)
        with call.err.status("answering"):
            if messages:
                asked, answers = [messages[-1]["content"]], [loaded.model.converse(messages, max_tokens)]
            else:
                answers = loaded.model.ask(asked, kind=kind, max_new_tokens=max_tokens)
    except MeloError as error:
        raise CommandError("The model cannot answer", str(error)) from None
    answered = list(zip(asked, answers, strict=True))

    def show() -> None:
        for prompt, answer in answered:
            if len(asked) > 1:
                call.out.print(Text(prompt, style="dim"))
            call.out.print(answer.text)
            if explain:
                fields(call.out, _explanation(loaded, answer))

    call.emit([_answer_record(loaded, prompt, answer) for prompt, answer in answered], show)


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


def answers(call: Invocation, models: Sequence[str], prompts: Sequence[str]) -> list[list[str]]:
    """Return each model's (`facts@3`) answer to each prompt, for `melo version diff --answers`. Raises CommandError."""
    from melo_core.errors import MeloError

    try:
        said = []
        for loaded in _load(call, *models):
            with call.err.status(f"asking version {loaded.content.number or 'base'}"):
                said.append([answer.text for answer in loaded.model.ask(list(prompts), kind="qa")])
    except MeloError as error:
        raise CommandError("The model cannot answer", str(error)) from None
    return said


def worker(
    call: Invocation,
    devices: Annotated[
        str | None,
        typer.Option(
            help="GPUs by number, or cpu: a process for each, such as 0,1 or cpu,cpu. Default: MELO_DEVICES, else the "
            "best there is."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Work for collections over this base model alone; may be repeated."),
    ] = None,
) -> None:
    """Train jobs until Ctrl-C. Needs the database and the broker: `melo up` starts a worker by itself.

    Told to stop, it has MELO_STOP_SECONDS to finish its job, or else gives it back; told twice, it does so at once.
    """
    from registry.base.model_files import find_model
    from worker.devices import named

    if devices is not None:
        named(devices)
        os.environ["MELO_DEVICES"] = devices
    for name in model or ():
        find_model(name)
    os.environ.setdefault("MELO_DATABASE_URL", call.database_url())
    redis_url = call.settings.redis_url or (call.stack.redis_url if call.stack else None)
    if not redis_url:
        raise CommandError("No broker", "MELO_REDIS_URL is not set, and nothing runs here.", "Run `melo up`.")
    os.environ.setdefault("MELO_REDIS_URL", redis_url)
    os.execv(sys.executable, [sys.executable, "-m", "worker", *(f"--model={name}" for name in model or ())])


def demo(
    call: Invocation,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's folder, to look around in.")] = False,
) -> None:
    """Correct a real model, see it answer correctly, and undo it: the whole workflow, in a temporary folder."""
    from worker.demo.run import run_demo

    run_demo(call, json_file, keep)


def _load(call: Invocation, *models: str) -> "Iterator[LoadedVersion]":
    """Yield the versions one after another, over one base model. All are found before torch is imported."""
    from registry.versions.reading import resolve

    with record_of(call) as sessions:
        with sessions() as session:
            wanted = [resolve(session, model) for model in models]
        with call.err.status("starting"):
            from worker.loader import load_version
            from worker.model_cache import ModelCache

            model_cache = ModelCache(call.settings.cache, call.settings.dtype)
        for found in wanted:
            with call.err.status(f"loading {found.collection.name}@{found.number}"):
                loaded = load_version(sessions, model_cache, found.collection.id, found.number)
            yield loaded


def _answer_record(loaded: "LoadedVersion", prompt: str, answer: "Answer") -> dict[str, object]:
    """Return an answer as JSON, with its edit and those that were considered."""
    edit = loaded.edit_behind(answer)
    nearest = answer.route.considered[:1]
    return {
        "prompt": prompt,
        "answer": answer.text,
        "token_ids": list(answer.token_ids),
        "version": loaded.content.number,
        "edit": edit and edit.id,
        "said_to": answer.said_to if answer.route.block is not None else None,
        "distance": nearest[0].distance if nearest else None,
        "threshold": loaded.model.settings.threshold,
        "considered": [
            {
                "edit": found.edit,
                "text": found.text,
                "distance": found.distance,
                "score": found.score,
                "difference": str(found.difference) if found.difference else None,
                "guard": found.guard,
                "guard_score": found.guard_score,
                "covers": found.covers,
            }
            for found in answer.route.considered
        ],
    }


SHOWN = 3  # edits that were considered
SAID_TO = {"query": "", "prompt": ", by its answer to the edit's own prompt"}


def _explanation(loaded: "LoadedVersion", answer: "Answer") -> list[tuple[str, object]]:
    """Describe which edit acted and why, in which version, and who made it; or why none did, and which came near."""
    version = f"{loaded.content.collection.name}@{loaded.content.number}"
    considered = [
        ("considered", f"edit {found.edit}: {found.text} – {_verdict(found, loaded.model.settings.threshold)}")
        for found in answer.route.considered[:SHOWN]
    ]
    edit = loaded.edit_behind(answer)
    if edit is None:
        why = "no edit lies near" if loaded.content.edits else "the version has no edits"
        why = "no edit covers the prompt" if considered else why
        if answer.said_to == "base":
            why = f"edit {answer.route.considered[0].edit} covers the prompt, but its block does not say its target"
        return [("version", version), ("answered by", f"the base model: {why}"), *considered]
    return [
        ("version", version),
        ("answered by", f"edit {edit.id}, block {answer.route.block}{SAID_TO[answer.said_to]}"),
        ("edit", f"{edit.prompt} → {edit.target}"),
        ("author", edit.author),
        ("reason", edit.reason),
        ("source", edit.source),
        ("batch", edit.batch_id),
        *considered,
    ]


def _verdict(found: "Considered", threshold: float) -> str:
    """Describe the distance, and what counted for or against the edit."""
    away = f"distance {found.distance:.3f}"
    if found.guard is not None:
        return f"{away}; nearer to the guard {found.guard!r}"
    if found.difference is not None:
        return f"{away}; differs by {found.difference}"
    if found.score is None:
        return f"{away}; {'within' if found.covers else 'beyond'} the radius"
    return f"{away}; asks something else: {found.score:.3f} ({'at most' if found.covers else 'above'} {threshold:g})"
