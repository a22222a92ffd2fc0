"""`melo job replay`: train a job's edits again on this machine and compare the blocks with the stored ones."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.commands import add_command
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.jobs import JobNumber, group_of
from cli.show import fields, table
from worker.record import record_of

if TYPE_CHECKING:
    from melo_core.training import Progress as Trained
    from registry.jobs.replaying import Replay, TrainedBlock
    from worker.model_cache import ModelCache
    from worker.training import TrainedEdit

SHOWN_BLOCKS = 20


@dataclass(frozen=True)
class Compared:
    """A block as it was stored, and as it was trained here."""

    stored: "TrainedBlock"
    here: str | None  # SHA-256; None: no such block was trained here

    @property
    def is_same(self) -> bool:
        return self.stored.sha256 == self.here

    def as_json(self) -> dict[str, Any]:
        return {
            "block": self.stored.id,
            "edits": list(self.stored.edits),
            "stored": self.stored.sha256,
            "here": self.here,
            "same": self.is_same,
        }


def register(app: typer.Typer) -> None:
    """Add `replay` to the group `job`."""
    add_command(group_of(app), replay, "melo job replay 7")


def replay(call: Invocation, job: JobNumber) -> None:
    """Train a job's edits again as before, and compare each block's bytes. Nothing is written.

    The same settings, seed and order on the same kind of machine give the same bytes. Status 1 where a block differs.
    """
    from registry.jobs.replaying import replay_of

    with record_of(call) as sessions, sessions() as session:
        wanted = replay_of(session, job)
    model_cache, trained, notes = _trained(call, wanted)
    compared = compare(wanted, trained)
    differing = differences(wanted, model_cache)
    same = all(each.is_same for each in compared)
    record = {
        "job": job,
        "same": same,
        "blocks": [each.as_json() for each in compared],
        "differences": {name: {"recorded": recorded, "here": here} for name, (recorded, here) in differing.items()},
        "notes": notes,
    }
    call.emit(record, lambda: _show(call, wanted, compared, differing))
    if not same:
        raise typer.Exit(1)


def compare(wanted: "Replay", trained: "Sequence[TrainedEdit]") -> list[Compared]:
    """Pair each of the job's blocks with the one trained here for the same edits."""
    from registry.base.digests import sha256_hex

    edits: dict[int, list[int]] = {}
    for each in trained:
        edits.setdefault(each.group, []).append(each.edit.id)
    here = {tuple(sorted(edits[each.group])): sha256_hex(each.data) for each in trained}
    return [Compared(block, here.get(block.edits)) for block in wanted.blocks]


def differences(wanted: "Replay", model_cache: "ModelCache") -> dict[str, tuple[object, object]]:
    """Return where device and libraries differ: the recorded value, and the one here."""
    import torch

    here: dict[str, object] = {
        "device": model_cache.device_name,
        "dtype": model_cache.dtype,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    recorded: dict[str, object] = {"device": wanted.device, **wanted.libraries}
    found = {name: (value, here[name] if name in here else _version(name)) for name, value in recorded.items()}
    return {name: (was, now) for name, (was, now) in found.items() if str(was) != str(now)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _trained(call: Invocation, wanted: "Replay") -> "tuple[ModelCache, list[TrainedEdit], list[str]]":
    """Train the job's edits. Raises CommandError, or UnknownModel."""
    with call.err.status("starting"):
        import torch

        from melo_core.errors import MeloError
        from melo_core.settings import MethodSettings
        from worker.conversion_line import line_on
        from worker.model_cache import ModelCache
        from worker.training import train_edits

        _set_threads(wanted.libraries)
        was_cpu = (wanted.device or "").startswith("cpu")
        dtype = str(wanted.libraries.get("dtype", call.settings.dtype))
        model_cache = ModelCache(
            call.settings.cache, dtype, torch.device("cpu") if was_cpu else None, line_on(call.err)
        )
        base = model_cache.base(wanted.model, wanted.model_digest, wanted.model_files)
    notes: list[str] = []
    try:
        with _bar(call) as show:
            trained = train_edits(
                base, MethodSettings.from_json(wanted.settings), wanted.trained_together, show, notes.append
            )
    except MeloError as error:
        raise CommandError("The job cannot be trained again", str(error)) from None
    except torch.OutOfMemoryError as error:
        raise CommandError("Not enough memory", str(error), "Use a machine like the one that ran the job.") from None
    return model_cache, trained, notes


def _set_threads(libraries: Mapping[str, Any]) -> None:
    """Use as many threads as the job did: on a CPU, sums depend on their number."""
    import torch

    recorded = str(libraries.get("threads", ""))
    if recorded.isdigit() and int(recorded) > 0:
        torch.set_num_threads(int(recorded))


@contextmanager
def _bar(call: Invocation) -> "Iterator[Any]":
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=call.err, transient=True) as bars:
        bar = bars.add_task("", total=None, loss="")

        def show(progress: "Trained") -> None:
            bars.update(bar, completed=progress.done, total=progress.total, loss=f"loss {progress.loss:.3g}")

        yield show


def _show(
    call: Invocation, wanted: "Replay", compared: Sequence[Compared], differing: Mapping[str, tuple[object, object]]
) -> None:
    same = sum(each.is_same for each in compared)
    rows = [
        [
            each.stored.id,
            ", ".join(map(str, each.stored.edits)),
            each.stored.sha256[:16],
            each.here and each.here[:16],
            Text("same") if each.is_same else Text("different", style="bold red"),
        ]
        for each in sorted(compared, key=lambda each: each.is_same)[:SHOWN_BLOCKS]
    ]
    table(call.out, ["block#", "edits", "stored", "here", ""], rows, empty="")
    if len(compared) > SHOWN_BLOCKS:
        call.out.print(f"… and {len(compared) - SHOWN_BLOCKS} more: --json prints all.")
    fields(call.out, [(name, f"{was} then, {now or 'none'} here") for name, (was, now) in differing.items()])
    if same == len(compared):
        call.out.print(Text(f"All {same} blocks of job {wanted.job_id} came out the same, bit for bit.", style="green"))
        return
    why = (
        "What differs is listed above."
        if differing
        else "Device and libraries are the same: less free memory, or other settings of threads, may be why."
    )
    call.out.print(Text(f"{len(compared) - same} of {len(compared)} blocks differ. {why}", style="bold red"))
