"""Finds texts that look the same and are not, and characters that a reader does not see (Unicode TR36, TR39)."""

import re
import unicodedata
from functools import cache
from typing import Any

_WORD = re.compile(r"[^\W_]+")
_LETTERS = frozenset(("LATIN", "CYRILLIC", "GREEK"))  # scripts that are mixed within a word only to deceive
# Default_Ignorable_Code_Point, besides the format characters, and what is drawn as nothing although it is no blank.
_BLANK = frozenset(
    (
        0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x200A, 0x2065, 0x2800, 0x3164, 0xFFA0, 0xFFFC, 0x1D159,
        *range(0x180B, 0x1810), *range(0xFDD0, 0xFDF0), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000),
    )
)  # fmt: skip
_SELECTORS = frozenset((*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
_JOINERS = frozenset("\u200c\u200d")  # Persian and Indic words need them, and emoji
# A dot over a letter that has one, and a mark that is written twice over the same letter.
_COVERED = re.compile(r"(?<=[ijıȷіј])\u0307(?![\u0300-\u0314\u033d-\u0344])|([\u0300-\u036f\u0483-\u0487])(?=\1)")
_TURKISH = "ı"  # it looks like an i, but belongs to ordinary writing
_BETWEEN = re.compile(r"(?<=[A-Za-z0-9])([^\w\s\x00-\x7f])(?=[A-Za-z0-9])")
_SEPARATORS = frozenset("./:;,@?#%&=")  # of addresses


def skeleton(text: str) -> str:
    """Return a form that is the same for texts that look the same: without what is not seen, letters by their looks."""
    if text.isascii() and text.isprintable():
        looks = text.translate(_ascii_prototypes())
    else:
        seen = unicodedata.normalize("NFKD", "".join(each for each in text if not _is_unseen(each)))
        looks = unicodedata.normalize("NFD", "".join(map(_prototype, _COVERED.sub("", seen))))
    return " ".join(looks.split())


def look_alike(one: str, other: str) -> bool:
    """Tell whether two names may be taken for each other: they look the same, or differ in letter case alone."""
    return one == other or skeleton(one).casefold() == skeleton(other).casefold() or (
        skeleton(one.casefold()) == skeleton(other.casefold())
    )  # fmt: skip


def unseen_in(text: str) -> list[str]:
    """Return the characters that a reader does not see, once each: of no width, of control, or turning the direction.

    Joiners between letters other than Latin ones, and the selectors of an emoji's looks, are part of ordinary writing.
    """
    if text.isascii() and text.isprintable():
        return []
    found = [each for place, each in enumerate(text) if _is_unseen(each) and not _is_writing(text, place)]
    covered = (each.group() for each in _COVERED.finditer(unicodedata.normalize("NFD", text)))
    return list(dict.fromkeys((*found, *covered)))


def borrowed_in(text: str, context: str = "") -> list[str]:
    """Return words in which letters of another script stand for those that they look like, such as a Cyrillic а, and
    signs that stand for those of an address.

    context: what is read together with the text. If it has Latin letters, all of a word may be borrowed, unless other
    words of the text are written in its script beyond doubt.
    """
    if text.isascii():
        return []
    normal = unicodedata.normalize("NFC", text)
    in_latin = re.search("[A-Za-z]", normal + context) is not None
    words = [word for word in _WORD.findall(normal) if not word.isascii()]
    written = {each for word in words if not skeleton(word).isascii() for each in [_scripts(word)] if len(each) == 1}
    borrowed = (word for word in words if _scripts(word) not in written and _is_borrowed(word, in_latin))
    signs = (each for each in _BETWEEN.findall(normal) if skeleton(each) in _SEPARATORS)
    return list(dict.fromkeys((*borrowed, *signs)))


def is_blank(character: str) -> bool:
    """Tell whether a printable character is drawn as nothing, or differently by each font: of private use, or none."""
    code = ord(character)
    return code in _BLANK or unicodedata.category(character) == "Co" or code & 0xFFFE == 0xFFFE


def named(character: str) -> str:
    """Return a character's number, and its name where it has one: U+200B ZERO WIDTH SPACE."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()


def _is_borrowed(word: str, in_latin: bool) -> bool:
    scripts = _scripts(word) & _LETTERS
    if "CYRILLIC" in scripts and len(scripts) > 1:
        return True
    strange = [each for each in word if not each.isascii() and (each.isalpha() or each.isdecimal())]
    strange = [each for each in strange if _script(each) != "LATIN" or _is_styled(each) or _is_variant(each)]
    strange = [each for each in strange if skeleton(each).isalnum()]  # ʻ looks like an apostrophe
    if "GREEK" in scripts and len(scripts) > 1:  # but Δx and μm are written so
        return any(skeleton(each).isascii() for each in strange)
    is_symbol = len(word) == 1 and scripts == {"GREEK"} and word.islower() and word != "ο"  # β-blocker
    return in_latin and bool(strange) and not is_symbol and skeleton(word).isascii()


def _scripts(word: str) -> frozenset[str]:
    return frozenset(_script(each) for each in word if each.isalpha())


def _is_styled(letter: str) -> bool:
    """Tell whether it is a letter of the alphabet in another form, such as full width or bold."""
    return unicodedata.normalize("NFKC", letter).isascii()


def _is_variant(letter: str) -> bool:
    """Tell whether it is another Latin letter that looks like one of the alphabet, such as ɡ for g."""
    looks = skeleton(letter)
    return letter != _TURKISH and len(looks) == 1 and looks.isascii()


def _is_unseen(character: str) -> bool:
    """Tell whether a character is drawn as nothing, or as what each font pleases (private use)."""
    if character in " \t\n\r":
        return False
    return (
        unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
        or ord(character) in _SELECTORS
        or is_blank(character)
    )


def _is_writing(text: str, place: int) -> bool:
    """Tell whether a joiner or a selector follows what it belongs to: a letter that is not Latin, or a symbol."""
    if text[place] not in _JOINERS and ord(text[place]) not in _SELECTORS:
        return False
    before = text[place - 1 : place]
    if ord(before or "a") in _SELECTORS:
        before = text[place - 2 : place - 1]
    return bool(before) and not before.isascii() and _script(before) not in _LETTERS


@cache
def _script(character: str) -> str:
    from confusable_homoglyphs.categories import alias  # its tables take a tenth of a second to read

    return str(alias(character))


@cache
def _ascii_prototypes() -> dict[int, str]:
    return {code: _prototype(chr(code)) for code in range(128)}


@cache
def _prototype(character: str) -> str:
    """Return the character, or characters, for which all that look like this one stand.

    The tables connect every character with its prototype, and each prototype with all of its characters. Of two that
    are connected with each other alone, either may serve: the ASCII one does, or the one with the lower number.
    """
    others = _confusable(character)
    if len(others) != 1:
        return character
    other = others[0]
    if len(other) > 1 or len(_confusable(other)) > 1:
        return other
    return min(character, other)


def _confusable(characters: str) -> list[str]:
    from confusable_homoglyphs.confusables import confusables_data

    found: list[dict[str, Any]] = confusables_data.get(characters, [])
    return [each["c"] for each in found]
