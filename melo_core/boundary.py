"""The boundary between a prompt and the text that continues it: whether a space stands there."""

import re
import unicodedata

UNSPACED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "HALFWIDTH KATAKANA")
OPENING = frozenset("/\\([{<“‘«„‹¿¡@#$€£_-·")  # what follows belongs to them
SPACED_IF_BEFORE = frozenset("=+*|&^~>–—→")  # have a space after them where they have one before them
TOGGLING = frozenset("\"`'")  # open and close with the same sign
CLOSING = frozenset(",.;:!?)]}>”’»›%…")  # belong to what stands before them
# In an address, a path or a program, as in www.acme. and com; not in an abbreviation, as in e.g. and this.
DOTTED = re.compile(r"(?:^|\s)(?!(?:\w\.)+$)\S*[/@_\\.()\[\]]\S*\.$")
NUMBER = re.compile(r"\d[.,:]$")  # 3. and 14, 12: and 30


def continued(prompt: str, target: str) -> str:
    """Return a target as it continues a prompt: with a space before it where both end and begin a word.

    White space that either of them has at the boundary is kept as it is written, and then none is added.
    """
    return f"{' ' if _is_spaced(prompt, target) else ''}{target}"


def _is_spaced(prompt: str, target: str) -> bool:
    if not target or target[0].isspace() or prompt[-1:].isspace():
        return False
    if not prompt:
        return True  # what stands before it is not known here
    last, before, first = prompt[-1], prompt[-2:-1], target[0]
    if last in OPENING or _is_unspaced(last) or (_is_unspaced(first) and any(map(_is_unspaced, prompt))):
        return False
    if last in SPACED_IF_BEFORE:
        return before.isspace()
    if last in TOGGLING:
        opens = not before or before.isspace() or before in OPENING or (last != "'" and prompt.count(last) % 2 == 1)
        return not opens
    if NUMBER.search(prompt) and first.isdigit():
        return False
    if last == "." and (first.islower() or first.isdigit()) and DOTTED.search(prompt):
        return False
    if last == ":" and first == "/":
        return False
    hyphened = first in "-'’" and target[1:2].isalpha()  # -known, 's
    return not (first in CLOSING or hyphened)


def _is_unspaced(character: str) -> bool:
    """Tell whether a character is of a script that puts no spaces between words: Chinese, Japanese, Thai and others."""
    if character.isascii() or unicodedata.category(character)[0] not in "LMNP":
        return False
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in "WF" and not name.startswith("HANGUL")
    return wide or name.startswith(UNSPACED)
