"""`melo verifier`: train a verifier, or continue training one on an organisation's own questions."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.invocation import Invocation


def register(app: typer.Typer) -> None:
    """Add the group `verifier`."""
    summary = "The verifier, which decides whether a question is an edit's."
    group = add_group(
        app, "verifier", summary, "melo verifier train --data questions --out my-verifier --start packaged"
    )
    shown = "melo verifier train --data training/questions --public ../shared/data --out melo_core/verifier_weights"
    add_command(group, train, shown, has_json=False)
    add_command(group, mean, "melo verifier mean packaged my-verifier --out mean", has_json=False)


def train(
    call: Invocation,
    data: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Groups of questions: JSONL with same, near and slots; see docs/scope.md."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where weights and model card are written.")],
    public: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Public sets beside them: scope_pairs.jsonl and others.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="VERIFIER", help="Train on from this one: packaged, or a folder.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
    learning_rate: Annotated[float, typer.Option(help="AdamW's step size.")] = 1e-4,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps in which the step size rises.")] = 150,
    averaging: Annotated[
        float, typer.Option(min=0, max=1, help="What the mean of the weights, which is written, keeps at a step.")
    ] = 0.998,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, data and machine give the same weights.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all.")] = None,
) -> None:
    """Train a cross-encoder to tell an edit's question, however asked, from every other question about its subject."""
    if not any(data.glob("*.jsonl")):
        raise CommandError(
            "Nothing to learn from", f"{data} holds no *.jsonl.", "Name a folder with groups of questions."
        )
    with call.err.status("starting"):
        import torch

        from melo_core.errors import MeloError
        from melo_core.settings import MethodSettings
        from melo_core.verifier import Verifier
        from melo_core.verifier_files import folder_of
        from registry.base.model_files import find_encoder
        from worker.model_cache import VERIFIER_BASE
        from worker.verifier.sources import Sources
        from worker.verifier.train import Plan, card, measure, save
        from worker.verifier.train import train as run

        if threads:
            torch.set_num_threads(threads)
        encoder = find_encoder(VERIFIER_BASE).path
        sources = Sources(data, public)
    plan = Plan(steps=steps, learning_rate=learning_rate, warm_up=warm_up, averaging=averaging, seed=seed)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    try:
        with Progress(*columns, TimeRemainingColumn(), console=call.err, transient=True) as bars:
            task = bars.add_task("training", total=steps)
            model = run(
                sources,
                encoder,
                plan,
                folder_of(start) if start else None,
                lambda step, loss: bars.update(task, completed=step, description=f"training, loss {loss:.3f}"),
                lambda model: save(model, out),
            )
            save(model, out)
            bars.update(task, description="measuring")
            verifier = Verifier.load(out, encoder)
            measured = measure(verifier, sources.held_out, MethodSettings().threshold)
    except (MeloError, OSError) as error:
        raise CommandError("The verifier cannot be trained", f"{error}") from None
    (out / "MODEL_CARD.md").write_text(card(sources, plan, measured, VERIFIER_BASE), "utf-8")
    call.out.print(f"Written to {out}: {len(sources.groups):,} groups of questions, {steps:,} steps.")
    for kind, counts in measured.items():
        call.out.print(f"{kind}: {counts['accepted']} of {counts['n']} taken for the same")


def mean(
    call: Invocation,
    verifiers: Annotated[
        list[str], typer.Argument(metavar="VERIFIER...", help="Two or more: packaged, or folders.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the weights are written.")],
) -> None:
    """Write the mean of verifiers' weights: trained on from one another, together they often judge better than each."""
    if len(verifiers) < 2:
        raise CommandError("Nothing to average", "One verifier was named.", "Name two or more.")
    with call.err.status("starting"):
        from melo_core.errors import MeloError
        from melo_core.verifier_files import folder_of
        from worker.verifier.train import save_mean
    try:
        save_mean([folder_of(name) for name in verifiers], out)
    except (MeloError, OSError) as error:
        raise CommandError("The verifiers cannot be averaged", f"{error}") from None
    call.out.print(f"Written to {out}: the mean of {len(verifiers)} verifiers.")
