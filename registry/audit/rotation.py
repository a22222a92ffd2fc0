"""Replacing the key that signs events: the old one signs an event that names the new one, and nothing after it.

Processes that still have the old key are refused from then on (`registry.audit.service`), and what a copy of it signs
later does not verify (`registry.audit.trust`).
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit import signing, trust
from registry.audit.actor import Actor
from registry.audit.details import SignerReplace
from registry.audit.trust import Trust
from registry.base.errors import InvalidRequest, NoSigningKey
from registry.base.settings import Settings
from registry.base.whole_files import new_file

NEXT = "signing-key.next.pem"  # in MELO_HOME, from before the event until the key has taken the old one's place


def is_in_home(settings: Settings) -> bool:
    """Tell whether the process signs with the key in MELO_HOME, which a program can replace."""
    return not (settings.signer or settings.signing_key)


def next_key(home: Path, *, store: bool) -> Ed25519PrivateKey:
    """Return the key that is to take the place of the one in MELO_HOME: one that was begun with, else a new one.

    store: whether to keep a new one. Raises NoSigningKey where that is not possible.
    """
    path = home / NEXT
    if path.exists():
        return signing.private_key(path.read_bytes(), str(path))
    key = Ed25519PrivateKey.generate()
    if store:
        try:
            with new_file(path, 0o600) as stream:
                stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        except OSError as error:
            raise NoSigningKey(f"{path} cannot be written: {error.strerror}.", "Nothing was changed.") from None
    return key


def replace(session: Session, new: str, actor: Actor, reason: str) -> int:
    """Record, signed by the process's key, that another one signs from the next event on. Returns the event's number.

    new: its public key, as text. Nothing is written where the record says so already, as after an interruption. Raises
    InvalidRequest for a key that has signed before, and NoSigningKey where this process has none, or a replaced one.
    """
    known = trust.of(session)
    if known.signer is None:
        raise NoSigningKey("There is no signing key to replace.", signing.MAKE_ONE)
    old = signing.public_text(known.signer)
    done = trust.successor(session, old)
    if done is not None and done.key == new:
        return done.seq
    if known.trust is not None and new in known.trust.keys:
        raise InvalidRequest(f"{new} is a key of this registry already.", "Make a new one.")
    return audit.record(session, SignerReplace(from_=old, to=new), actor, trust.SIGNER, reason=reason).seq


def lines(old: str, new: str, seq: int, first: int = 1) -> list[str]:
    """Return the two keys as a list of public keys names them, with the events that each may have signed."""
    return [f"{old} {first}-{seq}", f"{new} {seq + 1}-"]


def store(home: Path, known: Trust, old: str, new: str, seq: int) -> None:
    """List the old public key in MELO_HOME up to its last event, and put the next key in its place."""
    path = home / trust.FILE
    before = path.read_text().splitlines() if path.is_file() else []
    first = known.keys.get(old, (0, 0))[0]
    kept = [line for line in before if line.partition("#")[0].split()[:1] != [old]]
    replaced = lines(old, new, seq, first or 1)
    # A list limits the process's own key too, so the new one is in it only where earlier events have no signature.
    with new_file(path, 0o644, replace=True) as stream:
        stream.write("\n".join([*kept, *(replaced if first > 1 else replaced[:1]), ""]).encode())
    os.replace(home / NEXT, home / signing.FILE)
