"""Canaries: the two versions that a name may stand for, and which of them answers a user."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from registry.access.caller import Caller
    from serving.served import Served

Key: TypeAlias = tuple[str, int]  # the collection's name and the version's number

_DIGITS = 53  # of a float's fraction


@dataclass(frozen=True)
class Pointing:
    """Where a name points now: at a version, and perhaps at a second one.

    share: of users whom the second answers, as a canary; None: it is a shadow. refused: the second cannot be served.
    """

    name: str
    first: Key
    second: Key | None = None
    share: float | None = None
    refused: bool = field(default=False, compare=False)

    def has_canary_for(self, user: str) -> bool:
        """Tell whether the second version answers a user: always the same ones, and still as the share grows."""
        return self.share is not None and not self.refused and place_of(self.name, user) < self.share

    @property
    def has_shadow(self) -> bool:
        return self.second is not None and self.share is None and not self.refused


@dataclass(frozen=True)
class Chosen:
    """The version that answers a request, and where its name pointed then."""

    pointing: Pointing
    served: "Served"
    canary: bool = False


def place_of(name: str, user: str) -> float:
    """Return a user's place in [0, 1) among an alias's users; those below the share have the canary.

    It depends on both: the first users of one alias's canary are not those of another's.
    """
    digest = hashlib.sha256(f"{name}\0{user}".encode()).digest()
    return float((int.from_bytes(digest[:8]) >> (64 - _DIGITS)) / 2**_DIGITS)


def user_of(named: str | None, headers: Mapping[str, str], caller: "Caller", text: str) -> str:
    """Return whom a request is from: whom it names, else the key's name, else what the conversation begins with.

    named: the field `user` or `safety_identifier`. text: of the first user's turn. The three are told apart, so that a
    user called as a key is not taken for it.
    """
    if user := named or headers.get("X-Melo-User"):
        return f"user:{user}"
    return f"text:{text}" if caller.key_name is None else f"key:{caller.key_name}"


def beginning_of(turns: Sequence[Mapping[str, str]]) -> str:
    """Return the text of a conversation's first user turn."""
    return next((turn["content"] for turn in turns if turn["role"] == "user"), "")
