"""Options of `melo bench edits`. Its work is in `run`, imported only when called, since that needs torch."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from melo_core.errors import MeloError
from melo_core.method import complete


class Task(StrEnum):
    """A set of edits, with its way of judging answers."""

    ZSRE = "zsre"
    COUNTERFACT = "counterfact"
    HALLUCINATION = "hallucination"
    SCOTUS = "scotus"


class Form(StrEnum):
    """The form in which a cloze is given and asked."""

    AS_GIVEN = "as-given"
    QUESTION = "question"


def register(bench: typer.Typer) -> None:
    add_command(bench, edits, "melo bench edits --data zsre.jsonl --unrelated nq.jsonl --limit 50", has_json=False)


def edits(
    call: Invocation,
    data: Annotated[Path, typer.Option(metavar="FILE", help="What to correct: zsRE, CounterFact, KnowEdit, …")],
    task: Annotated[Task, typer.Option(help="What is edited and how it is judged.")] = Task.ZSRE,
    unrelated: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that no edit may touch: JSONL or text.")
    ] = None,
    unrelated_limit: Annotated[int, typer.Option(min=0, help="How many of them.")] = 1000,
    limit: Annotated[int, typer.Option(min=1, help="How many edits.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Edits learned at a time.")] = 25,
    rephrases_given: Annotated[int, typer.Option(min=0, help="Of each edit; the others are tested.")] = 0,
    against: Annotated[
        str, typer.Option(metavar="METHODS", help="Also: paper, lora, grace, in-context, with commas between.")
    ] = "",
    preset: Annotated[str, typer.Option(help="What melo runs with: default or paper.")] = "default",
    method: Annotated[str, typer.Option(metavar="JSON", help='Settings over the preset\'s: {"rank": 4}')] = "{}",
    form: Annotated[
        Form, typer.Option(help="How a completion is given and asked: as the file has it, or as a question.")
    ] = Form.AS_GIVEN,
    model: Annotated[str, typer.Option(help="A packaged name, a folder or a hub id.")] = "smollm2-135m-instruct",
    encoder: Annotated[str, typer.Option(help="The sentence encoder that keys come from.")] = "all-minilm-l6-v2",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Edit a model batch after batch, and measure the results, by free generation throughout."""
    from benchmarks.edits.methods import METHODS
    from benchmarks.edits.run import Choice, run_bench

    methods = [name.strip() for name in against.split(",") if name.strip()]
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise CommandError("Unknown method", f"--against has {unknown[0]!r}.", f"Choose among {', '.join(METHODS)}.")
    choice = Choice(
        task.value, data, unrelated, unrelated_limit, limit, batch, rephrases_given, methods, model,
        encoder, preset, settings_given(method, preset), form.value, json_file,
    )  # fmt: skip
    try:
        run_bench(call, choice)
    except MeloError as error:
        raise CommandError("The bench cannot run", str(error)) from None


def settings_given(method: str, preset: str) -> dict[str, Any]:
    """Only those given, but validated. Raises CommandError."""
    try:
        given = json.loads(method)
    except json.JSONDecodeError as error:
        raise CommandError("The settings cannot be read", f"--method is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise CommandError("The settings cannot be read", "--method is no JSON object.", "Such as '{\"rank\": 4}'.")
    try:
        complete(given, preset)
    except MeloError as error:
        raise CommandError("The settings cannot be used", f"{error}.") from None
    return given
