"""Arguments and options shared by several commands."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CommandError
from cli.times import later
from registry.base.vocabulary import Priority

if TYPE_CHECKING:
    from registry.client import SubmissionOptions

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection's name.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")]
TrainingSettings = Annotated[
    str | None,
    typer.Option("--training", metavar="JSON", help='Settings of training for this batch alone: {"iterations": 200}'),
]
BatchPriority = Annotated[Priority, typer.Option(help="Which of the batches that wait is trained first.")]
Deadline = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="When it is too late to apply it: ISO 8601, or 90m, 2h, 3d from now."),
]
Message = Annotated[str, typer.Option("--message", "-m", help="What the batch is for.")]
Approve = Annotated[bool, typer.Option("--approve", help="Approve it at once (where self-approval is allowed).")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the job until it is applied or has failed.")]


def require_confirmed(question: str, otherwise: str) -> None:
    """Ask; raise CommandError, whose title is `otherwise`, where the answer is no, or nobody can answer."""
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:
        confirmed = False
    if not confirmed:
        raise CommandError(otherwise, "It was not confirmed.", "Answer y, or add --yes.")


@dataclass(frozen=True)
class BatchOptions:
    """Options of a new batch: what it is for, when and how it is trained, and whether it is decided on at once."""

    priority: BatchPriority = Priority.NORMAL
    deadline: Deadline = None
    training: TrainingSettings = None
    message: Message = ""
    approve: Approve = False
    wait: Wait = False

    def of_submission(self) -> "SubmissionOptions":
        """Return them in the client's form. Raises CommandError or typer.BadParameter."""
        return {
            "message": self.message,
            "priority": self.priority,
            "deadline": later(self.deadline) if self.deadline is not None else None,
            "training": settings(self.training, "--training", '{"iterations": 200}'),
        }


def settings(text: str | None, option: str, example: str) -> dict[str, Any] | None:
    """Parse a JSON object of settings. Raises CommandError or typer.BadParameter."""
    if text is None:
        return None

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise CommandError(
                "Not a number", f"{option}: {number} is not a finite number.", f"Write it as in {example}."
            )
        return value

    try:
        found = json.loads(text, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint=option) from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"it is not an object, such as {example}", param_hint=option)
    return found
