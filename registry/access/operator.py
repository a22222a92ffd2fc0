"""The operator's keys: MELO_API_KEY, and the one in a file of MELO_HOME that its owner alone can read."""

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from registry.access.keys import KeyText
from registry.base.errors import UserError
from registry.base.settings import Settings

FILE = "api-key"
_LONGEST = 1_000  # characters; no header has more than some thousand
_MOST_IN_WORDS = 0.3  # of a key; words from a dictionary make up less of a random one
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
    """Return the key in MELO_HOME, or None if there is none. Raises UnusableKey if others can read or exchange it."""
    path = home / FILE
    try:
        folder = home.stat()
        with path.open() as file:
            found = os.fstat(file.fileno())
            text = file.read(_LONGEST + 1).strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableKey(f"{path} cannot be read: {error}.", "Run as the user who owns it.") from None
    if found.st_uid != os.geteuid() or folder.st_uid not in (0, os.geteuid()):
        raise UnusableKey(f"{path}, or the folder, belongs to another user.", "Run as the user who owns both.")
    if stat.S_IMODE(folder.st_mode) & 0o022:
        raise UnusableKey(
            f"Other users of this machine can write to {home}, so the key in it may be theirs.",
            f"Take that from them, and delete the key; `melo up` makes another: chmod go-w {home}; rm {path}",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
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
    if len(key) > _LONGEST:
        raise UnusableKey(f"{name} has more than {_LONGEST} characters.", remedy)
    if _is_well_known(key) or any(_can_be_guessed(text[:_JUDGED]) for text in (key, *_decoded(key)) if text):
        raise UnusableKey(f"{name} could be guessed.", remedy)


def _can_be_guessed(text: str) -> bool:
    """Tell whether a text withstands too few guesses, or is made of words, however many: nothing random is."""
    from zxcvbn import zxcvbn  # imported here because most commands judge no key

    judged = zxcvbn(text)
    words = (each["token"] for each in judged["sequence"] if each["pattern"] == "dictionary")
    in_words = sum(len(word) for word in words if word.isalpha() and len(word) > 2)
    return bool(judged["guesses_log10"] < _GUESSES or in_words > _MOST_IN_WORDS * len(text))


def _decoded(key: str) -> Iterator[str]:
    """Yield the texts that a key is in base64 or hexadecimal digits, if there are such."""
    padded = key.replace("-", "+").replace("_", "/") + "=" * (-len(key) % 4)
    for decode, given in ((b64decode, padded), (bytes.fromhex, key)):
        with suppress(ValueError):
            text = decode(given).decode("ascii")
            if text.isprintable():
                yield text


def _is_well_known(key: str) -> bool:
    """Tell whether it is the digest of a usual password, which looks random and is not."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    kind = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(key))
    words = ("", *FREQUENCY_LISTS["passwords"]) if kind else ()
    return any(
        hashlib.new(kind or "", word.encode(), usedforsecurity=False).hexdigest() == key.lower() for word in words
    )
