"""Sending a file of edits: how it was understood, what of it is refused, and the submission itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from cli.errors import CommandError
from cli.files.content import STANDARD_INPUT
from cli.files.reading import EditFile, ReadOptions, mapping, open_edits
from cli.invocation import Invocation
from cli.show import table, visible
from registry.base.vocabulary import EditKind

if TYPE_CHECKING:
    from registry.batches.schemas import SubmissionView
    from registry.client import SubmissionOptions

SHOWN_CHARACTERS = 300  # of a text in a preview
EditsFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file, whose format is recognised; - is the standard input.")
]
Corrected = Annotated[str, typer.Option("--collection", "-c", help="The collection to correct.")]


@dataclass(frozen=True)
class FileOptions:
    """Options of a file of edits: how it is read, and how many of its edits share a block."""

    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Which column a field is read from; may be repeated."),
    ] = None
    encoding: Annotated[str | None, typer.Option(help="Of a text, where it is not found out: cp1252, shift_jis, …")] = (
        None
    )
    sheet: Annotated[str | None, typer.Option(help="Of a workbook. Default: the first with a header.")] = None
    kind: Annotated[EditKind | None, typer.Option("--kind", help="What kind all corrections of the file are.")] = None
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Take texts as they stand, also nan, {}, 1987.0 and spaces at the ends.")
    ] = False
    edits_per_block: Annotated[
        int | None, typer.Option(min=1, help="Edits that share a block. Default: the collection's.")
    ] = None

    def read(self, file: Path) -> EditFile:
        """Read the file. Raises CommandError, also for an unclear mapping."""
        kind = self.kind.value if self.kind else None
        return open_edits(file, ReadOptions(mapping(self.map_ or ()), self.encoding, self.sheet, kind, self.as_is))

    def of_submission(self, file: Path) -> "SubmissionOptions":
        """Return what the client is told of the file."""
        source = file.name if str(file) != "-" else STANDARD_INPUT
        return {"source": source, "edits_per_block": self.edits_per_block}


def tell(call: Invocation, read: EditFile, dry_run: bool) -> None:
    """Say how a file was understood; for a dry run also show its first edits."""
    call.say(Text(visible(f"Read as {read.format} ({read.kind}): {read.told}.")))
    for note in read.notes:
        call.say(Text(visible(note), style="yellow"))
    if dry_run and not call.as_json:
        columns = [f"{read.unit}#", *dict.fromkeys(name for each in read.first for name in each if name != "line")]
        rows = [[each["line"], *(_shown(each.get(name)) for name in columns[1:])] for each in read.first]
        table(call.out, columns, rows, empty="No edits.")


def _shown(value: Any) -> Any:
    text = "\n".join(value) if isinstance(value, list) else value
    is_long = isinstance(text, str) and len(text) > SHOWN_CHARACTERS
    return text[: SHOWN_CHARACTERS - 1] + "…" if is_long else text


def as_read(read: EditFile | None) -> dict[str, Any]:
    """Return, for programs, how a file was understood."""
    if read is None:
        return {}
    told = {"format": read.format, "kind": read.kind, "columns": dict(read.columns), "ignored": list(read.ignored)}
    return {"read": {**told, "notes": read.notes, "first": read.first}}


def send(call: Invocation, collection: str, read: EditFile, options: "SubmissionOptions") -> "SubmissionView":
    """Send a file. Raises CommandError, naming every row that is refused, unless those are to be left out."""
    from registry.client import MeloClientError

    unread = read.remarks.problems
    if not read.lines:
        raise _broken(read, unread, options)
    if unread and not options.get("skip_invalid"):
        raise _broken(read, [*unread, *_problems_of_the_rest(call, collection, read, options)], options)
    try:
        made = _sent(call, collection, read, options)
    except MeloClientError as error:
        if not error.problems:
            raise
        problems = [read.placed(each) for each in error.problems]
        detail = f"{read.name}: {error.detail}"
        raise CommandError("The file was not accepted", detail, _remedy(options), problems) from None
    return made


def _sent(call: Invocation, collection: str, read: EditFile, options: "SubmissionOptions") -> "SubmissionView":
    """Send a file while it is read, with a progress bar on a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=call.err, transient=True, disable=not call.err.is_terminal) as progress:
        bar = progress.add_task("sending", total=read.size)

        def lines() -> Iterator[bytes]:
            progress.reset(bar, description="sending")  # it may be sent again after a broken connection
            yield from read.chunks(lambda step: progress.advance(bar, step))
            progress.update(bar, description="validating")

        return call.client.submit_lines(collection, lines, **options)


def _problems_of_the_rest(
    call: Invocation, collection: str, read: EditFile, options: "SubmissionOptions"
) -> list[dict[str, Any]]:
    """Return the registry's problems with the readable rows, so that one run names every problem."""
    from registry.client import MeloClientError

    try:
        _sent(call, collection, read, {**options, "dry_run": True})
    except MeloClientError as error:
        if not error.problems:
            raise
        return error.problems
    return []


def _remedy(options: "SubmissionOptions") -> str:
    rest = ", or take the rest with --skip-invalid" if "skip_invalid" in options else ", and do the same again"
    return f"Correct what is named{rest}."


def _broken(read: EditFile, problems: list[dict[str, Any]], options: "SubmissionOptions") -> CommandError:
    problems = [read.placed(each) for each in sorted(problems, key=lambda problem: problem.get("line") or 0)]
    found = len(problems) - len(read.remarks.problems) + read.remarks.problem_count
    count = f"{found} problems" if found > 1 else "a problem"
    return CommandError(
        "The file was not accepted",
        f"{read.name} has {count}; nothing was stored.",
        _remedy(options),
        problems,
    )
