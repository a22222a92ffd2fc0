"""`melo audit rotate-key`: replace the key that signs events."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.database import database
from cli.errors import CommandError
from cli.invocation import Invocation
from cli.options import Reason


@dataclass(frozen=True)
class Rotated:
    """seq: the last event of the old key. public_keys: the lines for whoever verifies."""

    old: str
    new: str
    seq: int
    public_keys: list[str]
    dry_run: bool


def rotate_key(
    call: Invocation,
    reason: Reason,
    to: Annotated[
        Path | None,
        typer.Option(
            help="File of the new public key, where MELO_SIGNING_KEY or MELO_SIGNER has the private one.",
            dir_okay=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
) -> None:
    """Replace the key that signs events: the old one signs an event that names the new one, and nothing after it.

    The key in MELO_HOME is replaced by a new one at once. Every process that writes has to be started again; until
    then it is refused. Run it again if it was interrupted.
    """
    from registry.audit import rotation, signing
    from registry.audit.actor import Actor
    from registry.audit.trust import signing_of
    from registry.base.database import make_sessions, schema_state

    own, known = rotation.is_in_home(call.settings), signing_of(call.settings)
    if own and to is not None:
        raise CommandError("--to does not apply", f"The key is {call.home / signing.FILE}.", "Leave --to away.")
    if not own and to is None:
        raise CommandError(
            "The new key is missing",
            "MELO_SIGNING_KEY or MELO_SIGNER is set, and only you can change that.",
            "Make a key, and give its public key: openssl pkey -in new.pem -pubout > new.pub; then --to new.pub",
        )
    old = signing.public_text(known.signer or signing.signing_key(call.settings))
    key = signing.public_key(_text(to)) if to else rotation.next_key(call.home, store=not dry_run).public_key()
    new = signing.public_text(key)
    with database(call) as engine:
        schema_state(engine).require_current()
        with make_sessions(engine, signing=known)() as session:
            seq = rotation.replace(session, new, Actor(call.actor or call.settings.actor), reason)
            if not dry_run:
                session.commit()
    if own and known.trust is not None and not dry_run:
        rotation.store(call.home, known.trust, old, new, seq)
    first = known.trust.keys[old][0] if known.trust else 0
    lines = rotation.lines(old, new, seq, first or 1)
    call.emit(asdict(Rotated(old, new, seq, lines, dry_run)), lambda: _tell(call, seq, lines, own=own, dry_run=dry_run))


def _tell(call: Invocation, seq: int, lines: list[str], *, own: bool, dry_run: bool) -> None:
    from registry.audit import signing

    if dry_run:
        call.out.print(f"Event {seq}, if no other comes first, would be the last one of the key. Nothing was changed.")
        return
    call.out.print(f"Event {seq} is the last one of the old key; the new one signs from event {seq + 1} on.")
    if own:
        call.out.print(f"{call.home / signing.FILE} is the new key: keep a copy of it.")
    if not own or call.settings.public_keys:
        call.out.print("Set the new key (MELO_SIGNING_KEY, MELO_SIGNER), and list the old one in MELO_PUBLIC_KEYS.")
    call.out.print("The old key is refused from now on. Start again what writes: `melo down`, then `melo up --detach`.")
    call.out.print("Whoever verifies lists both:")
    for line in lines:
        call.out.print(f"  {line}")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError("The file cannot be read", f"{path}: {error}.") from None
