"""`melo audit`: the log of events, and verification that nothing differs from what was written."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.rotation import rotate_key
from cli.show import escaped, print_json, table
from registry.base.whole_files import new_file

if TYPE_CHECKING:
    from pydantic import BaseModel

    from registry.audit.schemas import Checkpoint, ExportVerification, VerificationView

    Read = TypeVar("Read", bound=BaseModel)

Out = Annotated[Path | None, typer.Option(help="The file to write. Default: standard output.")]

LARGEST_TEXT = 16 << 20  # characters of a checkpoint or key, and of a line of an export; some thousand are usual


def register(app: typer.Typer) -> None:
    group = add_group(
        app, "audit", "The audit log: read it, verify it, sign it, take it elsewhere.", "melo audit verify"
    )
    add_command(group, log, "melo audit log --collection facts --limit 20")
    add_command(group, verify, "melo audit verify --checkpoint head.json --public-key registry.pub")
    add_command(group, checkpoint, "melo audit checkpoint --out head.json", has_json=False)
    add_command(group, public_key, "melo audit public-key > registry.pub")
    add_command(group, rotate_key, "melo audit rotate-key --reason 'once a year' --dry-run")
    add_command(group, export, "melo audit export --out events.jsonl", has_json=False)


def log(
    call: Invocation,
    collection: Annotated[str | None, typer.Option(help="Only this collection's events.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only events about this, such as batch/3.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """List events, newest first."""
    found = call.client.audit(collection=collection, subject=subject, limit=limit)
    columns = ["event#", "at", "actor", "action", "subject", "reason", "hash"]
    rows = [[each.seq, each.at, each.actor, each.action, each.subject, each.reason, each.hash[:12]] for each in found]
    call.emit(found, lambda: table(call.out, columns, rows, empty="No events."))


def verify(
    call: Invocation,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A signed head: the record must be its continuation.", dir_okay=False)
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="File of the keys, one a line, that must have signed the checkpoint and an export's events.",
            dir_okay=False,
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Verify this exported file; no server is asked.", dir_okay=False)
    ] = None,
    tsa_certificates: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of authorities, of which one must have made the checkpoint's timestamp (FILE.tsr).",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Recompute the chain of events and every stored digest; status 1 if anything differs."""
    from registry.audit.schemas import Checkpoint

    if public_key is not None and checkpoint is None and export is None:
        raise typer.BadParameter(
            "--public-key says who signed a checkpoint or an export: give that too. The server checks its events with "
            "the keys of its own (MELO_PUBLIC_KEYS)."
        )
    if tsa_certificates is not None and checkpoint is None:
        raise typer.BadParameter(
            "--tsa-certificates verifies a checkpoint's timestamp: give that too, with --checkpoint."
        )
    kept = _read(checkpoint, Checkpoint) if checkpoint else None
    if checkpoint is not None and tsa_certificates is not None:
        call.say(f"The checkpoint existed by {_existed_by(checkpoint, tsa_certificates)}.")
    key = _text(public_key) if public_key else None
    found = _verify_export(call, export, kept, key) if export else _verify_record(call, kept, key)
    call.emit(found, lambda: call.out.print(f"Verified: {counted(found)}."))
    if kept is not None and public_key is None:
        call.say(f"The checkpoint names the key {kept.public_key} itself: compare it with yours (--public-key).")
    if not found.ok:
        raise CommandError(
            "The record was changed",
            "\n".join(f"{finding.subject}: {finding.detail}" for finding in found.findings),
            "Compare it with a backup, and do not serve what is named.",
        )
    call.say(found.signatures)
    call.say(f"All as written, up to event {found.head_seq} ({found.head_hash[:12]}).")


def checkpoint(
    call: Invocation,
    out: Out = None,
    timestamp: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Have this authority timestamp it too (RFC 3161): FILE.tsr beside the file."),
    ] = None,
    log_entry: Annotated[
        Path | None,
        typer.Option(help="Write a signed statement about it here, for a transparency log such as Rekor."),
    ] = None,
) -> None:
    """Have the server sign the head of the chain; store it where the server's operators cannot write."""
    if timestamp is not None and out is None:
        raise typer.BadParameter("--timestamp is of a file: give that too, with --out.")
    made = call.client.checkpoint()
    text = made.model_dump_json(indent=2) + "\n"
    stamp = _stamped(timestamp, text) if timestamp else None
    entry = call.client.log_entry(made) if log_entry else None
    if out is None:
        print_json(made)
    else:
        _write(out, text)
        call.err.print(f"Event {made.seq} ({made.hash[:12]}) was signed: {out}")
    if stamp is not None and out is not None:
        _write(_beside(out), stamp)
        call.err.print(f"{timestamp} timestamped it: {_beside(out)}")
    if entry is not None and log_entry is not None:
        _write(log_entry, entry.model_dump_json(indent=2) + "\n")
        call.err.print(f"The statement for a log: {log_entry}")


def _stamped(url: str, text: str) -> bytes:
    from registry.audit import witness

    return witness.timestamp(url, text.encode())


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".tsr")


def public_key(call: Invocation) -> None:
    """Print the key that checkpoints are verified with: Ed25519, base64 of its 32 bytes."""
    found = call.client.public_key()
    call.emit(found, lambda: call.out.print(found.public_key))


def export(
    call: Invocation,
    out: Out = None,
    since: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Only events after this one.")] = 0,
) -> None:
    """Write every event as a line of JSON, oldest first; `melo audit verify --export` reads it."""
    count = 0
    try:
        with _new(out) as stream:
            for line in call.client.export_events(since):
                # Escaped on a terminal, it is the same JSON, but no longer text that acts there.
                stream.write((line if out else escaped(line.decode()).encode()) + b"\n")
                count += 1
    except FileExistsError:
        raise _exists(out) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError("The file cannot be written", f"{out or 'standard output'}: {error.strerror}.") from None
    if out is not None:
        call.err.print(f"{count} events were written to {out}.")


def _verify_record(call: Invocation, checkpoint: "Checkpoint | None", key: str | None) -> "VerificationView":
    from registry.audit.schemas import VerificationView

    findings = []
    with call.err.status("recomputing every digest") as spinner:
        if checkpoint is not None:
            findings = call.client.compare(checkpoint, key).findings
        for step in call.client.verify_in_steps():
            if isinstance(step, VerificationView):
                found = step
            else:
                spinner.update(f"verifying {step.verifying}" + (f": {step.verified:,}" if step.verified else ""))
    return found.model_copy(update={"findings": [*findings, *found.findings], "ok": found.ok and not findings})


def _verify_export(
    call: Invocation, path: Path, checkpoint: "Checkpoint | None", key: str | None
) -> "ExportVerification":
    from registry.audit import checkpoint as checkpoints
    from registry.audit import export
    from registry.audit.trust import Trust

    findings = list(checkpoints.unsigned(checkpoint, key)) if checkpoint else []
    try:
        with path.open("rb") as source, call.err.status(f"reading {path}"):
            # A longer line is cut, and then no event.
            lines = iter(lambda: source.readline(LARGEST_TEXT), b"")
            found = export.verify(lines, checkpoint, Trust.read(key) if key else None)
    except OSError as error:
        raise _unreadable(path, error) from None
    if found.first_seq > 1:
        call.err.print(f"The file begins after event {found.first_seq - 1}: what came before is not in it.")
    return found.model_copy(update={"findings": [*findings, *found.findings], "ok": found.ok and not findings})


def _existed_by(checkpoint: Path, certificates: Path) -> str:
    from registry.audit import witness

    try:
        parts = [path.read_bytes() for path in (checkpoint, _beside(checkpoint), certificates)]
    except OSError as error:
        raise CommandError("The file cannot be read", f"{error.filename}: {error.strerror}.") from None
    return f"{witness.timestamped_at(*parts).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _read(path: Path, model: "type[Read]") -> "Read":
    from pydantic import ValidationError

    try:
        return model.model_validate_json(_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        detail = f"{path} is not a checkpoint: {where + ': ' if where else ''}{first['msg']}."
        raise CommandError("Not a checkpoint", detail, "Give what `melo audit checkpoint` wrote.") from None


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as content:
            text = content.read(LARGEST_TEXT + 1)
        if len(text) > LARGEST_TEXT:
            raise CommandError("The file is too large", f"{path} has more than {LARGEST_TEXT:,} characters.")
        return text
    except UnicodeDecodeError:
        raise CommandError("Not a text file", f"{path} is not text in UTF-8.") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _write(path: Path, content: str | bytes) -> None:
    """Write a new file: a stored checkpoint is never overwritten."""
    try:
        with new_file(path) as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise CommandError("The file cannot be written", f"{path}: {error.strerror}.") from None


def _new(path: Path | None) -> AbstractContextManager[IO[bytes]]:
    """Open a new file, or the standard output: a file whose export was cut short is none."""
    return nullcontext(sys.stdout.buffer) if path is None else new_file(path)


def counted(found: "VerificationView") -> str:
    """How many of each kind were verified, of which there are any."""
    return ", ".join(f"{count:,} {name}" for name, count in found.verified.items() if count) or "nothing is recorded"


def _exists(path: Path | None) -> CommandError:
    return CommandError("The file already exists", f"{path} was not overwritten.", "Give another name.")


def _unreadable(path: Path, error: OSError) -> CommandError:
    return CommandError("The file cannot be read", f"{path}: {error.strerror}.")
