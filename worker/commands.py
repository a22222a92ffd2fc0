"""The commands of `melo` that need a model, and answers for `melo ask`. Heavy imports wait until one is called."""

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.server import Question
from worker.calibrate import calibrate
from worker.export.command import register as register_export
from worker.record import record_of
from worker.replay import register as register_replay
from worker.verifier.command import register as register_verifier

LONGEST_ANSWER = 64  # tokens, where nothing is said

if TYPE_CHECKING:
    from worker.loader import LoadedVersion


def register(app: typer.Typer) -> None:
    """Add the commands. Raises ModuleNotFoundError where a dependency is not installed."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    add_command(app, worker, "melo worker --devices 0,1 --model smollm2-135m-instruct", has_json=False)
    add_command(app, demo, "melo demo --json figures.json", has_json=False)
    add_command(app, calibrate, "melo calibrate --pairs rephrases.jsonl --plot scope.png")
    register_export(app)
    register_replay(app)
    register_verifier(app)


def answers(call: Invocation, models: Sequence[str], asked: Sequence[Question]) -> list[list[dict[str, Any]]]:
    """Return each model's (`facts@3`) answers, with where they came from, for `melo ask` and `melo version diff`.

    Each version is rebuilt from the record. Raises CommandError.
    """
    from melo_core.errors import MeloError

    try:
        return [_answers_of(call, loaded, asked) for loaded in _load(call, *models)]
    except MeloError as error:
        raise CommandError("The model cannot answer", str(error)) from None


def _answers_of(call: Invocation, loaded: "LoadedVersion", asked: Sequence[Question]) -> list[dict[str, Any]]:
    from worker.provenance import provenance

    prompts, first, model = [question.prompt for question in asked], asked[0], loaded.model
    limit = first.max_tokens or LONGEST_ANSWER
    with call.err.status(f"asking version {loaded.content.number or 'base'}"):
        if not first.stands_alone:
            said = [model.converse(question.messages, limit) for question in asked]
        else:
            said = model.ask(prompts, kind="completion" if first.continues else "qa", max_new_tokens=limit)
    return [
        {
            "prompt": prompt,
            "answer": answer.text,
            "token_ids": list(answer.token_ids),
            "melo": {
                **provenance(loaded.content, model.settings, answer.route, loaded.edit_behind(answer)),
                "said_to": None if answer.route.block is None else answer.said_to,
                "canary": False,
            },
        }
        for prompt, answer in zip(prompts, said, strict=True)
    ]


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
            from worker.conversion_line import line_on
            from worker.loader import load_version
            from worker.model_cache import ModelCache

            model_cache = ModelCache(call.settings.cache, call.settings.dtype, converting=line_on(call.err))
        for found in wanted:
            with call.err.status(f"loading {found.collection.name}@{found.number}"):
                loaded = load_version(sessions, model_cache, found.collection.id, found.number)
            yield loaded
