"""Word rules of scope: what two texts differ in, where a difference of words decides by itself.

Exact, instant and without a model: they see what a small model overlooks (a digit, a `not`, two names that changed
places), and say which words differ. They are silent where words alone do not decide: then the verifier reads on.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rapidfuzz.distance import OSA

from melo_core import words as lists

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+(?:['’][^\W_]+)*")
DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
# "Question 3:", "2)": numbers of a list are no part of a question.
LABEL = re.compile(r"^\W*(?:(?:question|frage|q|no|nr|item)\W{0,2}\s*)?\d{1,3}\s*[:.)]\s+(?=\S)", re.I)
OPERATOR = re.compile(r"(?<!\S)`?([=!<>+*/%&|^~-]{1,3})(?=\s|`|$)|(?<=\w)(===?|!==?|<=|>=|\+\+|--)(?=\w|\s|$)")
SIGNS = frozenset(["-", "--", "/", "&", "*", "|", "~"])  # which stand in ordinary texts, too
TAG = re.compile(r",\s*(?:isn't|aren't|wasn't|doesn't|didn't|don't|right)\s*(?:it|he|she|they)?\s*\?*\s*$", re.I)
ORDINAL_NUMBER = re.compile(r"\b[Nn]o\.?\s*(?=\d)")  # "no. 1" says nothing of not
GREETING = re.compile(r"^\W*(?:dear|hi|hello|hey|good (?:morning|afternoon|evening))\b[^,.!?:\n]{0,40}[,!:\n]", re.I)
SIGNED = re.compile(
    r"(?<=[.!?,\n])\s*(?:yours(?: \w+)?|(?:kind |best |warm )?regards|best wishes|sincerely|cheers|(?:many )?thanks|"
    r"thank you)(?:,|\n|\s-)[^?]{0,60}$",
    re.I,
)
CLAUSE = re.compile(r"[,;()]\s*|\s[-–—]+\s")
YEAR = re.compile(r"\b(?:1\d|20)\d\d\b")
RAISED = re.compile(r"\d+[²³¹⁰⁴-⁹₀-₉]+")  # 2², which NFKC makes 22
UNIT = re.compile(r"(?:[kcm]?m|in|ft)[23]")  # km2, m3
CODE = re.compile(r"`[^`]+`|\b\w+\(\)|\b(?:function|command|method|package|operator|keyword|module|macro|flag)\b", re.I)
LONGEST_ABBREVIATION = 3  # letters
FEW = 4  # words on either side that the other has not
FEW_OF_CONTENT = 6  # of these alone


@dataclass(frozen=True)
class Difference:
    """What decides that two texts ask something else: the rule, and the words on either side (perhaps none)."""

    rule: str
    edit: str
    query: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.edit or '–'} / {self.query or '–'}"


@dataclass(frozen=True)
class _Text:
    written: tuple[str, ...]  # words as they are written
    plain: tuple[str, ...]  # the same in small letters, without accents and 's
    begins: tuple[bool, ...]  # whether the word begins a sentence, so that its capital says nothing
    cased: bool  # whether capitals say something: not in ALL CAPITALS, Title Case or small letters alone


def difference(edit: str, query: str) -> Difference | None:
    """Say by which rule a query asks something else than an edit's prompt; None: no rule decides.

    A rule speaks only where the words beside the differing ones are much the same: in a thorough rewording, single
    words say little.
    """
    if found := _symbols(edit, query) or _raised(edit, query) or _raised(query, edit, other_way=True):
        return found
    e, q = _read(edit), _read(query)
    if not e.plain or not q.plain:
        return None
    if (numbers := _numbers(e, q)) and (numbers.edit or _numbers(e, _read(_without_asides(e, query)))):
        return numbers
    only_e, only_q = _unmatched(e, q), _unmatched(q, e)
    shared = len(e.plain) - len(only_e)
    alike = shared / max(1, min(len(e.plain), len(q.plain)))  # share of the shorter text's words in the other
    few = len(only_e) <= FEW and len(only_q) <= FEW
    return (
        (few and alike >= 0.5 and (_negation(e, q) or _exclusive(e, q, only_e, only_q)))
        or _of_content(e, q, only_e, only_q)
        or _names(e, q, only_e, only_q, alike)
        or _order(e, q)
        or None
    )


def _read(text: str) -> _Text:
    text = SIGNED.sub("", GREETING.sub("", unicodedata.normalize("NFKC", text)))
    text = ORDINAL_NUMBER.sub("", TAG.sub("", LABEL.sub("", text)))
    for pattern, name in lists.ALIASES:
        text = pattern.sub(name, text)
    found = list(WORD.finditer(text))
    written = tuple(match.group() for match in found)
    between = [text[a.end() : b.start()] for a, b in pairwise(found)]
    begins = [i == 0 or _ends_sentence(written[i - 1], between[i - 1]) for i in range(len(written))]
    letters = [word for word in written if word[0].isalpha()]
    capitals = sum(word[0].isupper() for word in letters)
    cased = capitals > 0 and capitals * 2 <= len(letters) + 2
    return _Text(written, tuple(map(plain_word, written)), tuple(begins), cased)


def _ends_sentence(word: str, gap: str) -> bool:
    """Whether a sentence ends between a word and the next. After an abbreviation ("Mr. Smith") none does."""
    abbreviation = not word.islower() and (len(word) <= LONGEST_ABBREVIATION or plain_word(word) in lists.TITLES)
    return bool(re.search(r"[?!:\n]", gap)) or ("." in gap and not abbreviation)


def plain_word(word: str) -> str:
    """A word as it is compared: in small letters, without accents and 's."""
    word = word.replace("’", "'").casefold()
    word = word.removesuffix("'s").removesuffix("'")
    folded = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return folded or word


def _unmatched(one: _Text, other: _Text) -> list[int]:
    """Places of the words that the other text has in no form."""
    return [i for i, word in enumerate(one.plain) if not any(same_word(word, each) for each in other.plain)]


def same_word(a: str, b: str) -> bool:
    """Whether they are one word, up to a typing error or an ending. Both in small letters."""
    if a == b:
        return True
    if a[:1].isdigit() or b[:1].isdigit() or frozenset((a, b)) in lists.DISTINCT:
        return False
    short, long = sorted((len(a), len(b)))
    if short >= 4 and a[: max(4, short - 2)] == b[: max(4, short - 2)] and long - short <= 3:
        return True
    return (short >= 3 and (a + "ing" == b or b + "ing" == a)) or close(a, b)


def close(a: str, b: str) -> bool:
    """Whether two words are a typing error apart, or two where they are long and begin alike."""
    longer = max(len(a), len(b))
    allowed = 0 if longer < 4 else 2 if longer >= 8 and a[0] == b[0] else 1
    return OSA.distance(a, b, score_cutoff=allowed) <= allowed


def _symbols(edit: str, query: str) -> Difference | None:
    """Operators of a programming language, and names within code, which have to be the very same."""
    a, b = (Counter(x or y for x, y in OPERATOR.findall(text) if (x or y) not in SIGNS) for text in (edit, query))
    if a and b and a != b:
        return Difference("symbol", " ".join(sorted((a - b).elements())), " ".join(sorted((b - a).elements())))
    if CODE.search(edit) and CODE.search(query):
        one, two = ([plain_word(w) for w in WORD.findall(text)] for text in (edit, query))
        left, right = [w for w in one if w not in two], [w for w in two if w not in one]
        for x in left:
            for y in right:
                if _identifier(x) and _identifier(y) and OSA.distance(x, y, score_cutoff=2) <= 2:
                    return Difference("identifier", x, y)
    return None


def _raised(one: str, other: str, *, other_way: bool = False) -> Difference | None:
    """A number with an exponent or index, against the number that its digits in a line would be."""
    for raised in RAISED.findall(one):
        flat = unicodedata.normalize("NFKC", raised)
        if raised not in other and flat in DIGITS.findall(other):
            return Difference("number", *((flat, raised) if other_way else (raised, flat)))
    return None


def _identifier(word: str) -> bool:
    """Whether it looks like a program's name rather than a word: with few vowels, or digits."""
    return sum(c in "aeiou" for c in word) * 5 < len(word) or any(c.isdigit() for c in word)


def _numbers(e: _Text, q: _Text) -> Difference | None:
    """A number against another, or one in digits against none ("first" and "two" against none may be words)."""
    a, b = list(_values(e.plain)), list(_values(q.plain))
    only_a = [x for x in a if not any(_same_number(x[0], y[0]) for y in b)]
    only_b = [y for y in b if not any(_same_number(x[0], y[0]) for x in a)]
    written = any(digits for _, digits in only_a + only_b)
    if not written and not (only_a and only_b):
        return None
    return Difference("number", " ".join(x for x, _ in only_a), " ".join(y for y, _ in only_b))


def _without_asides(e: _Text, query: str) -> str:
    """The query without the clauses of a story around it: "got a lesson in 5 minutes and am lost, which building …"."""

    def is_aside(clause: str) -> bool:
        said = _read(clause).plain
        own = [w for w in said if w.isalpha() and w not in lists.FUNCTION and w not in lists.NUMBERS]
        shared = any(same_word(word, other) for word in own for other in e.plain)
        return len(own) >= 3 and said[0] not in lists.LIMITING and not shared and not YEAR.search(clause)

    return ", ".join(clause for clause in CLAUSE.split(query) if not is_aside(clause))


def _values(plain: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each number and whether it is written in digits; 25mm is 25, 12x32 is 12 and 32, twenty six is 26. (A 1 in digits
    is as good as a word: number 1 is the first.)"""
    value, before = 0, ""  # of number words that follow each other
    for word in (*plain, ""):
        if word not in lists.NUMBERS or (before in lists.NUMBERS and not _continues(before, word)):
            if value:
                yield str(value), False
            value = 0
        if word in lists.NUMBERS:
            number = int(lists.NUMBERS[word])
            value = max(1, value) * number if number in (100, 1000) else value + number
        elif any(c.isdigit() for c in word) and not UNIT.fullmatch(word):
            for number_text in DIGITS.findall(word):
                plain_number = number_text.replace(",", "").lstrip("0") or "0"
                yield plain_number, plain_number != "1"
        before = word


def _continues(before: str, word: str) -> bool:
    """Whether two number words make one number: twenty six, five hundred."""
    first, second = int(lists.NUMBERS[before]), int(lists.NUMBERS[word])
    return second in (100, 1000) or (first in range(20, 100, 10) and second < 10)


def _same_number(a: str, b: str) -> bool:
    """Also 80s and 1980s."""
    return a == b or ({len(a), len(b)} == {2, 4} and a[-2:] == b[-2:])


def _negation(e: _Text, q: _Text) -> Difference | None:
    a, b = ([w for w in text.plain if w in lists.NEGATIVE or w.endswith("n't")] for text in (e, q))
    return Difference("negation", " ".join(a), " ".join(b)) if len(a) % 2 != len(b) % 2 else None


def _exclusive(e: _Text, q: _Text, only_e: Sequence[int], only_q: Sequence[int]) -> Difference | None:
    """An opposite, or another word of a line of which a question has one or another; or another question word."""
    a, b = {e.plain[i] for i in only_e}, {q.plain[i] for i in only_q}
    for x in sorted(a):
        for y in sorted(b):
            if frozenset((x, y)) in lists.OPPOSITE and not (_open_until(e, x) or _open_until(q, y)):
                return Difference("opposite", x, y)
    for line in lists.EXCLUSIVE:
        x_forms, y_forms = (next((f for f in line if f & words), None) for words in (a, b))
        if x_forms and y_forms and x_forms != y_forms:
            return Difference("role", min(a & x_forms), min(b & y_forms))
    if (x := _rank(e, only_e)) or (y := _rank(q, only_q)):
        return Difference("role", x, "" if x else y)
    ask, asked = lists.ASKS.get(e.plain[0]), lists.ASKS.get(q.plain[0])
    if ask and asked and ask != asked:
        return Difference("asks", ask, asked)
    return None


def _rank(text: _Text, only: Sequence[int]) -> str:
    """A word such as deputy that the other text has not, before one that it has."""
    ranked = (i for i in only if text.plain[i] in lists.RANKS and i + 1 < len(text.plain) and i + 1 not in only)
    return next((text.plain[i] for i in ranked if text.plain[i + 1] not in lists.FUNCTION), "")


def _open_until(text: _Text, word: str) -> bool:
    """Whether a word says that something is open, in a text that asks until when: that is when it closes."""
    return word.startswith("open") and "endtime" in text.plain


def _of_content(e: _Text, q: _Text, only_e: Sequence[int], only_q: Sequence[int]) -> Difference | None:
    """The same for what texts are about: a query in keywords shares none of the small words of a question."""
    own_e, own_q = ([i for i in only if t.plain[i] not in lists.FUNCTION] for t, only in ((e, only_e), (q, only_q)))
    if len(own_e) > FEW_OF_CONTENT or len(own_q) > FEW_OF_CONTENT or _share_of_content(e, q, only_e) < 0.5:
        return None
    return _exclusive(e, q, own_e, own_q)


def _share_of_content(e: _Text, q: _Text, only_e: Sequence[int]) -> float:
    """The share of the shorter text's words, without the small ones, that are in the other."""
    sizes = [sum(word not in lists.FUNCTION for word in text.plain) for text in (e, q)]
    return (sizes[0] - sum(e.plain[i] not in lists.FUNCTION for i in only_e)) / max(1, min(sizes))


def _names(e: _Text, q: _Text, only_e: Sequence[int], only_q: Sequence[int], alike: float) -> Difference | None:
    """Another name, place or nationality."""
    if alike < 0.34:
        return None
    a, b = _named(e, only_e, q), _named(q, only_q, e)
    if not a or not b or all(word.isupper() for word in (*a, *b)):  # of abbreviations, two may mean the same
        return None
    return Difference("name", " ".join(a), " ".join(b))


def _named(text: _Text, places: Sequence[int], other: _Text) -> list[str]:
    return [
        text.written[i]
        for i in places
        if _is_name(text, i) and not _short_for(text.plain[i], other.plain) and not _spelt_out(text.plain[i], other)
    ]


def unnamed(edit: str, query: str, is_common: Callable[[str], bool]) -> Difference | None:
    """Say that a query has none of an edit's names in any form, where they do not go without saying.

    is_common: whether a word stands in so many edits that a question need not say it. For texts that lie far apart:
    near ones may describe what the edit names.
    """
    e, q = _read(edit), _read(query)
    names = [word for i, word in enumerate(e.plain) if _is_name(e, i)]
    if not names or any(map(is_common, names)):
        return None
    if any(same_word(name, word) or _short_for(word, e.plain) for name in names for word in q.plain):
        return None
    if any(_short_for(name, q.plain) for name in names):
        return None
    return Difference("name", " ".join(names), "")


def other_name(
    edit: str, query: str, is_word: Callable[[str], bool], goes_unsaid: Callable[[str], bool]
) -> Difference | None:
    """Say that a query has, in place of an edit's name, a word that is none: another name, in small letters.

    is_word: whether a word in small letters is an ordinary one. goes_unsaid: whether a name need not be said.
    """
    e, q = _read(edit), _read(query)
    only_e, only_q = _unmatched(e, q), _unmatched(q, e)
    if _share_of_content(e, q, only_e) < 0.5:
        return None
    if not (names := [word for word in _named(e, only_e, q) if not goes_unsaid(plain_word(word))]):
        return None
    others = [q.plain[i] for i in only_q if len(q.plain[i]) >= 4 and q.plain[i].isalpha() and not is_word(q.plain[i])]
    return Difference("name", " ".join(names), " ".join(others)) if others else None


def spoken_words(text: str) -> set[str]:
    """The words of a text as names are compared."""
    return {plain_word(word) for word in WORD.findall(text)}


def _is_name(text: _Text, i: int) -> bool:
    written, plain = text.written[i], text.plain[i]
    capital = text.cased and not text.begins[i] and written[0].isupper() and not re.match(r"I(?:['’]|$)", written)
    return (plain in lists.PLACES or capital) and plain not in lists.TITLES and plain not in lists.ORDINARY


def _short_for(word: str, others: Sequence[str]) -> bool:
    """Whether others has consecutive words (short ones may be left out) that begin with the letters of word."""
    return 2 <= len(word) <= 6 and word in "".join(
        w[0] for w in others if len(w) > 2 and w not in ("the", "and", "for")
    )


def _spelt_out(word: str, other: _Text) -> bool:
    """Whether other has initials that the word may be one of."""
    return any(w.isupper() and 2 <= len(w) <= 6 and word[0] in w.casefold() for w in other.written)


def _order(e: _Text, q: _Text) -> Difference | None:
    """The same words, but some that name something have changed places: who did what to whom."""
    if e.plain == q.plain or Counter(e.plain) != Counter(q.plain):
        return None
    if set(e.plain) & lists.EITHER:  # of a pair, either may come first
        return None
    if [w if w in lists.FUNCTION else "" for w in e.plain] == [w if w in lists.FUNCTION else "" for w in q.plain]:
        i = next(i for i in range(len(e.plain)) if e.plain[i] != q.plain[i])
        return Difference("order", f"{e.plain[i]} … {q.plain[i]}", f"{q.plain[i]} … {e.plain[i]}")
    if swapped := _swapped(e.plain, q.plain):
        one, other = (" ".join(words) for words in swapped)
        return Difference("order", f"{one} … {other}", f"{other} … {one}")
    return None  # another way to build the sentence


def _swapped(a: Sequence[str], b: Sequence[str]) -> tuple[Sequence[str], Sequence[str]] | None:
    """Two runs of words that stand in each other's place, with others between them; a and b have the same words."""
    first = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    last = next(i for i, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=True)) if x != y)
    a, b = a[first : len(a) - last], b[first : len(b) - last]
    for x in range(1, len(a) - 1):
        for y in range(1, len(a) - x):
            if a[:x] == b[-x:] and a[-y:] == b[:y] and a[x:-y] == b[y:-x]:
                return a[:x], a[-y:]
    return None
