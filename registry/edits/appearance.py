"""Finds what a reviewer does not see of edits: hidden characters, letters that look like others, texts of other edits.

A warning names edits by their ids and characters by their numbers, and quotes no text: that must stay erasable.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from registry.base.digests import comparable
from registry.base.look_alikes import borrowed_in, named, skeleton, unseen_in
from registry.edits.schemas import EditWarning, WarningCode

_NAMED = 5  # characters in a warning


class Shown(Protocol):
    """An edit, as far as a reviewer reads it."""

    @property
    def id(self) -> int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def rephrases(self) -> Sequence[str]: ...


class Proposed(Shown, Protocol):
    """An edit of a batch that waits for a decision."""

    @property
    def unchanged(self) -> Sequence[str]: ...
    @property
    def alternatives(self) -> Sequence[str]: ...
    @property
    def author(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def replaces(self) -> int | None: ...


# The gravest first: what another's question would be answered with, then what is not what it seems.
_GRAVITY: dict[str, int] = {code: place for place, code in enumerate(WarningCode)}


def gravest_first(warnings: Iterable[EditWarning]) -> list[EditWarning]:
    """Return warnings in the order in which a reviewer should read them."""
    return sorted(warnings, key=lambda each: (_GRAVITY.get(each.code, 0), each.edit_id))


def warnings_of(edits: Collection[Proposed], others: Iterable[Shown]) -> list[EditWarning]:
    """Return what a reviewer should know of the edits' texts.

    others: edits besides these that act, wait or are replaced. The edits are compared with each other too.
    """
    known = _Known([*edits, *others])
    return [warning for edit in edits for warning in (*_unseen(edit), *_alike(edit, known))]


def in_words(field: str) -> str:
    """Return a field's name as a warning begins with it: «Its rephrase 2»."""
    name, _, index = field.partition(".")
    return f"Its {name.removesuffix('s') if index else name}{f' {int(index) + 1}' if index else ''}"


def asked_by(edit: Shown) -> Iterator[tuple[str, str]]:
    """Yield the texts with which an edit is asked, each with the name of its field."""
    yield "prompt", edit.prompt
    for index, text in enumerate(edit.rephrases):
        yield f"rephrases.{index}", text


class _Known:
    """Edits by the looks of the texts with which they are asked."""

    def __init__(self, edits: Iterable[Shown]) -> None:
        self.edits: dict[int, Shown] = {}
        self.by_looks: dict[str, list[tuple[Shown, str, str]]] = {}  # edit, field, text
        for edit in edits:
            if edit.id in self.edits or not edit.prompt:  # it was erased
                continue
            self.edits[edit.id] = edit
            for field, text in asked_by(edit):
                for looks in _looks(text):
                    self.by_looks.setdefault(looks, []).append((edit, field, text))

    def like(self, text: str) -> list[tuple[Shown, str, str]]:
        """Return what looks like a text: an edit, the name of its field, and what that says."""
        found = (each for looks in _looks(text) for each in self.by_looks.get(looks, ()))
        return list({(edit.id, field): (edit, field, theirs) for edit, field, theirs in found}.values())


def _looks(question: str) -> set[str]:
    """Return forms, one of which is the same for questions that look the same or differ in letter case alone.

    Encoders ignore the case. A capital I looks like an l, and is the i of a question in capitals.
    """
    return {skeleton(question).casefold(), skeleton(question.casefold())}


def _read(edit: Proposed) -> Iterator[tuple[str, str]]:
    """Yield every text of an edit that a reviewer reads, each with the name of its field."""
    yield from asked_by(edit)
    yield "target", edit.target
    for name, texts in (("alternatives", edit.alternatives), ("unchanged", edit.unchanged)):
        for index, text in enumerate(texts):
            yield f"{name}.{index}", text
    yield from (("author", edit.author), ("reason", edit.reason), ("source", edit.source))


def _unseen(edit: Proposed) -> Iterator[EditWarning]:
    context = f"{edit.prompt} {edit.target}"
    for field, text in _read(edit):
        if text.isascii() and text.isprintable():
            continue
        if found := unseen_in(text):
            yield _warning(edit, WarningCode.HIDDEN, field, f"has characters that are not seen: {_listed(found)}.")
        letters = dict.fromkeys("".join(borrowed_in(text, context)))
        if strange := [each for each in letters if not each.isascii() and skeleton(each).isascii()]:
            yield _warning(edit, WarningCode.BORROWED, field, f"has letters that look like others: {_listed(strange)}.")


def _alike(edit: Proposed, known: _Known) -> Iterator[EditWarning]:
    rivals: dict[int, Shown] = {}
    for field, text in asked_by(edit):
        for other, of_other, theirs in known.like(text):
            if other.id == edit.id:
                continue
            rivals[other.id] = other
            place = f"the {in_words(of_other).removeprefix('Its ')} of edit {other.id}"
            if comparable(text) != comparable(theirs):
                is_same = _squeezed(text) == _squeezed(theirs)
                if is_same and other.id == edit.replaces:
                    continue
                told = f"is {place}, but for letter case and white space." if is_same else _differs(place)
                yield _warning(edit, WarningCode.ANOTHERS if is_same else WarningCode.ALIKE, field, told, other.id)
            elif other.id != edit.replaces and (field, of_other) != ("prompt", "prompt"):  # that is a collision
                yield _warning(edit, WarningCode.ANOTHERS, field, f"is {place}.", other.id)
    if edit.replaces in known.edits:
        rivals[edit.replaces] = known.edits[edit.replaces]
    for other in rivals.values():
        if comparable(edit.target) != comparable(other.target) and skeleton(edit.target) == skeleton(other.target):
            yield _warning(edit, WarningCode.ALIKE, "target", _differs(f"that of edit {other.id}"), other.id)


def _squeezed(text: str) -> str:
    return " ".join(comparable(text).casefold().split())


def _differs(place: str) -> str:
    return f"differs from {place} only in characters that look alike, are not seen, or are white space."


def _warning(edit: Shown, code: WarningCode, field: str, detail: str, other: int | None = None) -> EditWarning:
    told = f"{in_words(field)} {detail}"
    return EditWarning(edit_id=edit.id, code=code, field=field, other_edit_id=other, detail=told)


def _listed(characters: Iterable[str]) -> str:
    found = list(characters)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(map(named, found[:_NAMED])) + more
