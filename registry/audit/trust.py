"""The public keys whose signatures on events count, and what a process signs and checks events with.

Verifying needs public keys alone, so an auditor needs nothing that could sign.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import repository
from registry.audit.chain import hashed_fields, is_hash
from registry.audit.signing import Signer, is_event_signature, known_signer, public_key, public_text
from registry.base.digests import event_hash
from registry.base.errors import InvalidRequest
from registry.base.settings import Settings
from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent

FILE = "public-keys.txt"
SIGNER = "signer"  # the subject of the events that replace the signing key
IN_SESSION = "signing"  # the name under which a session's `info` holds its Signing
_LINE = re.compile(r"(?P<key>\S+)(?:\s+(?P<first>\d*)-(?P<last>\d*))?")
_REMEDY = (
    "Write a public key a line, as `melo audit public-key` prints it; after it, where it did not sign all events, the "
    "numbers of the first and the last: 1-5120, or 5121-."
)


@dataclass(frozen=True)
class Trust:
    """Public keys by their text, each with the first and the last event that it may have signed (0: no limit)."""

    keys: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, text: str) -> "Trust":
        """Read a key a line, `#` before a remark, or a single key in PEM. Raises InvalidRequest."""
        if text.lstrip().startswith("-----BEGIN"):
            return cls({public_text(public_key(text)): (0, 0)})
        keys = {}
        for number, line in enumerate(re.split(r"[\n,]", text), 1):
            content = line.partition("#")[0].strip()
            if not content:
                continue
            found = _LINE.fullmatch(content)
            if found is None:
                raise InvalidRequest(f"Line {number} of the public keys cannot be read.", _REMEDY)
            keys[public_text(public_key(found["key"]))] = int(found["first"] or 0), int(found["last"] or 0)
        if not keys:
            raise InvalidRequest("There is no public key.", _REMEDY)
        return cls(keys)

    @property
    def first(self) -> int:
        """The first event that must be signed."""
        return min(first for first, _ in self.keys.values())

    def covers(self, signed_by: object, seq: int) -> bool:
        """Return whether this key is one of these, and may have signed the event with this number."""
        first, last = self.keys.get(str(signed_by), (0, -1))
        return first <= seq and (last == 0 or seq <= last)

    def wrong_with(self, event: Mapping[str, Any]) -> str | None:
        """Return what is wrong with an event's signature, or None. The event: its seq, hash, signed_by and signature.

        That the hash is the content's is for its caller to see.
        """
        seq, signed_by = int(event["seq"]), str(event.get("signed_by"))
        if event.get("signature") is None and seq < self.first:
            return None  # written before there was a key
        if event.get("signature") is None:
            return "it is not signed: somebody without the registry's key wrote it"
        if signed_by not in self.keys:
            return f"it is signed by {signed_by}, which is no key of this registry"
        first, last = self.keys[signed_by]
        if not self.covers(signed_by, seq):
            return f"it is signed by {signed_by}, which signed events {first or 1} to {last or 'now'} alone"
        if not is_event_signature(event.get("signature"), event.get("hash"), public_key(signed_by)):
            return "its signature does not match its content"
        return None

    def in_order(self) -> Callable[[Mapping[str, Any]], str | None]:
        """Return a check like `wrong_with` for events in their order, which follows the replacements of keys.

        A key that named its successor signs nothing after that event, whatever the list says, and its successor does.
        """
        keys = dict(self.keys)

        def wrong_with(event: Mapping[str, Any]) -> str | None:
            found = Trust(keys).wrong_with(event)
            old = str(event.get("signed_by"))
            if found is None and (new := _named(event)) is not None and old in keys and is_hash(event):
                seq = int(event["seq"])
                keys[old] = keys[old][0], seq
                keys.setdefault(new, (seq + 1, 0))
            return found

        return wrong_with

    def wrong_with_row(self, event: AuditEvent) -> str | None:
        """Return what is wrong with an event by itself: its hash, or its signature."""
        try:
            if event_hash(hashed_fields(event)) != event.hash:
                return "its content does not match its hash"
        except TypeError:
            return "its content does not match its hash"
        fields = {"seq": event.seq, "hash": event.hash, "signed_by": event.signed_by, "signature": event.signature}
        return self.wrong_with(fields)

    def in_words(self) -> str:
        since = f" from event {self.first} on" if self.first > 1 else ""
        return f"Signatures were checked against {len(self.keys)} public key{'s' * (len(self.keys) > 1)}{since}."


def signatures_in_words(trust: Trust | None, unsigned: int) -> str:
    """Return what a verification says of signatures, above all where it cannot check them."""
    if trust is not None:
        return trust.in_words()
    count = f"; {unsigned:,} of them have none" if unsigned else ""
    return (
        f"No signature was checked, because no key is known here{count}: whoever owns the database could have added "
        "events. MELO_SIGNING_KEY or MELO_PUBLIC_KEYS names the keys."
    )


@dataclass(frozen=True)
class Successor:
    """The key that takes a replaced one's place, and the event that says so."""

    key: str
    seq: int


def successor(session: Session, key: str) -> Successor | None:
    """Return which key this one named as its successor, if any. What another key says of it does not count."""
    own = Trust({key: (0, 0)})
    for event in repository.of_subject(session, SIGNER, [Action.SIGNER_REPLACE]):
        if event.signed_by == key and own.wrong_with_row(event) is None:
            return Successor(str(event.details.get("to")), event.seq)
    return None


def _named(event: Mapping[str, Any]) -> str | None:
    """Return the key that an event says takes its signer's place, or None."""
    if event.get("action") != Action.SIGNER_REPLACE or event.get("signature") is None:
        return None
    try:
        return public_text(public_key(str(event["details"]["to"])))
    except (InvalidRequest, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Signing:
    """What a process signs its events with, and what it checks others' with; None: it does not."""

    signer: Signer | None = None
    trust: Trust | None = None


NONE = Signing()


def signing_of(settings: Settings) -> Signing:
    """Return the keys that the settings name. Raises NoSigningKey or InvalidRequest.

    A process trusts its own key besides those listed; where the list limits its own key, the list counts.
    """
    signer, listed = known_signer(settings), _listed(settings)
    own = {public_text(signer): (0, 0)} if signer else {}
    keys = own | dict(listed.keys if listed else {})
    return Signing(signer, Trust(keys) if keys else None)


def of(session: Session) -> Signing:
    """Return what the session's process signs and checks with."""
    found: Signing = session.info.get(IN_SESSION, NONE)
    return found


def unverified(session: Session, events: Iterable[AuditEvent]) -> list[str]:
    """Return what is wrong with each of these events that does not verify; nothing where no key is known."""
    trust = of(session).trust
    if trust is None:
        return []
    return [f"event {event.seq}: {wrong}" for event in events if (wrong := trust.wrong_with_row(event))]


def _listed(settings: Settings) -> Trust | None:
    if settings.public_keys:
        path = Path(settings.public_keys).expanduser()
        try:
            text = path.read_text() if path.is_file() else settings.public_keys
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"MELO_PUBLIC_KEYS: {path} cannot be read: {error}.", _REMEDY) from None
        return Trust.read(text)
    path = settings.home / FILE
    return Trust.read(path.read_text()) if path.is_file() else None
