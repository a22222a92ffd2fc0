"""The text of an API key, and the part of it that is stored."""

import hmac
import re
import secrets
from dataclasses import dataclass, field

from registry.base.digests import sha256_hex

_FORM = re.compile(r"melo_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class KeyText:
    """`melo_<prefix>_<secret>`: the prefix finds the key's row and is shown in lists; the secret is never stored."""

    prefix: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "KeyText":
        return cls(secrets.token_hex(6), secrets.token_urlsafe(32))

    @classmethod
    def read(cls, text: str) -> "KeyText | None":
        """Parse a key, or return None if the text does not have a key's form."""
        found = _FORM.fullmatch(text)
        return cls(found[1], found[2]) if found else None

    @property
    def text(self) -> str:
        return f"melo_{self.prefix}_{self.secret}"

    @property
    def sha256(self) -> str:
        """The hash that is stored.

        One fast hash is enough: slow ones (bcrypt, Argon2) make guessing a person's password expensive, but nobody
        guesses 256 random bits, and this hash is computed for every request.
        """
        return sha256_hex(self.secret.encode())

    def fits(self, stored_sha256: str) -> bool:
        """Tell whether the key has this hash, in constant time: the duration reveals nothing about how much agrees."""
        return hmac.compare_digest(self.sha256, stored_sha256)
