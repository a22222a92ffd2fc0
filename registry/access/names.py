"""Names of actors: one spelling for each person, so that nobody approves their own batch under another."""

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

from sqlalchemy.orm import Session

from registry.access import repository
from registry.base.errors import InvalidRequest
from registry.base.look_alikes import borrowed_in, look_alike, skeleton, unseen_in

LONGEST = 200  # characters
_SIGNS = re.compile(r"^[\W_]+|[\W_]+$")
_PROGRAMS = ("worker/", "clock")  # actors of the record that are no people


def spelled(text: str) -> str:
    """Return a name as the record spells it: in NFC, without white space around it, and single spaces in it.

    Raises ValueError for a name with characters that are not seen, one that is too long, and one of a program.
    """
    stripped = unicodedata.normalize("NFC", text).strip()
    if not stripped.isprintable() or unseen_in(stripped):
        raise ValueError("it has unprintable characters")
    name = " ".join(stripped.split())
    if not _core(name) or len(name) > LONGEST:
        raise ValueError(f"it has no letter or digit, or more than {LONGEST} characters")
    if _is_program(name):
        raise ValueError("that is what the record calls a program, not a person")
    return name


def _core(name: str) -> str:
    """Return a name without the signs around it: «ada.» can be taken for ada."""
    return _SIGNS.sub("", name)


def _is_program(name: str) -> bool:
    forms = {skeleton(form).casefold().replace(" ", "") for form in (name, name.casefold())}
    return any(form.startswith(_PROGRAMS[0]) for form in forms) or look_alike(_core(name), _PROGRAMS[1])


def received(header: str) -> str:
    """Return the name in an HTTP header, given as Latin-1: it may be sent in UTF-8, in Latin-1, or percent-encoded.

    Raises ValueError as `spelled` does, and where what is percent-encoded is no UTF-8.
    """
    sent = header.encode("latin-1")
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        text = header
    return spelled(unquote(text, errors="strict"))


def require_distinct(session: Session, names: Iterable[str]) -> None:
    """Raise InvalidRequest for a name that looks like another one: a name of the record, or one of those given."""
    given = list(dict.fromkeys(names))
    new = [name for name in given if not repository.is_actor(session, name)]
    if not new:
        return
    known = repository.actors(session)
    for place, name in enumerate(new):
        core = _core(name)
        other = next((each for each in (*known, *new[:place]) if look_alike(_core(each), core)), None)
        if other is not None:
            raise InvalidRequest(
                f"The name {name!r} can be taken for {other!r}, which the record knows already.",
                "Spell it as that one, if it is the same person; else choose one that looks different.",
            )
        if borrowed := borrowed_in(name):
            raise InvalidRequest(
                f"The name {name!r} has letters or signs that look like others, in {borrowed[0]!r}.",
                "Spell it in the letters of one script.",
            )
