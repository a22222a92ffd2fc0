"""Typing errors of a query, mended towards the edit that it is read beside."""

from collections.abc import Callable

from melo_core.rules import WORD, close, plain_word

SHORTEST = 4  # letters of a word that is mended


def spelt_as(edit: str, query: str, is_word: Callable[[str], bool]) -> str:
    """The query with its misspelt words as the edit's prompt spells them.

    A word is misspelt where is_word does not know it and one of the edit's words is a typing error away. A word with
    a capital may be somebody's name, and other names differ in one letter: it is mended only towards a word that
    is_word knows.
    """
    there = [plain_word(match.group()) for match in WORD.finditer(edit)]

    def mended(written: str) -> str:
        word = plain_word(written)
        if len(word) < SHORTEST or not word.isalpha() or word in there:
            return written
        for other in there:
            if len(other) >= SHORTEST and close(word, other) and not is_word(word):
                return other if written.islower() or is_word(other) else written
        return written

    return WORD.sub(lambda match: mended(match.group()), query)
