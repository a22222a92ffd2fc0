"""Typing errors and initials of a query, read as the words of the edit that it is read beside."""

from collections.abc import Callable, Sequence

from melo_core.rules import WORD, close, plain_word

SHORTEST = 4  # letters of a word that is mended


def spelt_as(edit: str, query: str, is_word: Callable[[str], bool]) -> str:
    """The query with its misspelt words and its initials as the edit's prompt spells them.

    Initials (MD, KGH) are read as the words that begin with them, where the edit has these one after the other.
    A word is misspelt where is_word does not know it and one of the edit's words is a typing error away. A word with
    a capital may be somebody's name, and other names differ in one letter: it is mended only towards a word that
    is_word knows.
    """
    there = [plain_word(match.group()) for match in WORD.finditer(edit)]

    def mended(written: str) -> str:
        word = plain_word(written)
        if written.isupper() and (spelt := _spelt_out(word, there)):
            return spelt
        if len(word) < SHORTEST or not word.isalpha() or word in there:
            return written
        for other in there:
            if len(other) >= SHORTEST and close(word, other) and not is_word(word):
                return other if written.islower() or is_word(other) else written
        return written

    return WORD.sub(lambda match: mended(match.group()), query)


def _spelt_out(initials: str, there: Sequence[str]) -> str:
    """The words, one after the other, that begin with these initials; empty: there are none."""
    size = len(initials)
    if size < 2 or not initials.isalpha() or initials in there:
        return ""
    runs = (there[i : i + size] for i in range(len(there) - size + 1))
    return next((" ".join(run) for run in runs if all(w.startswith(c) for w, c in zip(run, initials, strict=True))), "")
