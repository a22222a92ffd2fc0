"""The operator's keys: MELO_API_KEY, and the one in a file of MELO_HOME that its owner alone can read."""

import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from registry.access.keys import KeyText
from registry.base.errors import UserError
from registry.base.settings import Settings

FILE = "api-key"
_GUESSES = 21  # decimal places: the fewest guesses that a key must withstand, as zxcvbn estimates them
_JUDGED = 72  # characters; zxcvbn's time grows with the square of the length
_MAKE_ONE = "Set it to what `openssl rand -hex 32` prints."


class UnusableKey(UserError):
    """A key that would not protect anything, or that nobody could send."""

    title = "The operator's key cannot be used"


class OperatorKeys:
    """The keys with which a request is the operator's: an admin everywhere."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    @classmethod
    def of(cls, settings: Settings) -> "OperatorKeys":
        """Return MELO_API_KEY and the key of MELO_HOME, as far as there are such. Raises UnusableKey.

        MELO_API_KEY counts unless it is one of the keys created here. The holder of such a key may start a server from
        the same shell, which must not make them an admin, nor others who have it.
        """
        given = settings.api_key.get_secret_value() if settings.api_key else ""
        named = [("MELO_API_KEY", given, _MAKE_ONE)] if given and KeyText.read(given) is None else []
        if stored := stored_key(settings.home):
            path = settings.home / FILE
            named.append((str(path), stored, f"Delete the file; `melo up` makes another: rm {path}"))
        for name, key, remedy in named:
            _require_strong(name, key, remedy)
        return cls([key for _, key, _ in named])

    def include(self, given: str) -> bool:
        """Tell whether a text is one of the keys, in a time that reveals nothing about them."""
        found = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        return any(found)


def stored_key(home: Path) -> str | None:
    """Return the key in MELO_HOME, or None if there is none. Raises UnusableKey if others can read it."""
    path = home / FILE
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableKey(f"{path} cannot be read: {error}.", "Run as the user who owns it.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UnusableKey(
            f"{path} is open to other users of this machine.",
            f"Delete it, as somebody may have read it; `melo up` makes another: rm {path}",
        )
    return text or None


def make_key(home: Path) -> None:
    """Create a key in MELO_HOME if there is none yet: atomically, whole, and for its owner alone."""
    with tempfile.NamedTemporaryFile(dir=home) as draft:  # its mode is 0600
        draft.write(secrets.token_urlsafe(32).encode())
        draft.flush()
        os.fsync(draft.fileno())
        try:
            os.link(draft.name, home / FILE)
        except FileExistsError:
            return


def _require_strong(name: str, key: str, remedy: str) -> None:
    """Raise UnusableKey for a key that could be guessed, or that no header can carry."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UnusableKey(f"{name} holds blanks or characters that no header can carry.", remedy)
    from zxcvbn import zxcvbn  # imported here because most commands judge no key

    if zxcvbn(key[:_JUDGED])["guesses_log10"] < _GUESSES:
        raise UnusableKey(f"{name} could be guessed.", remedy)
