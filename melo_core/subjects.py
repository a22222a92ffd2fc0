"""The subject of a question, and a follow-up with that subject in place of its pronoun. Word rules, without a model."""

import re
from itertools import takewhile

from melo_core.words import FUNCTION, TITLES, words

MOST = 4  # subjects of one question
LONGEST = 6  # words of a subject
NAME = r"[A-Z0-9][\w&.’'-]*\w|[A-Z]"
JOINS = r"of the|of|de la|de|del|da|di|du|van der|van|von|and|&|la|le|the"
RUN = re.compile(rf"(?<![\w.])(?:{NAME})(?:\s(?:(?:{JOINS})\s)?(?:{NAME}))*")
OWNED = re.compile(r"['’]s?$")
END = re.compile(r"[\s?.!,:;]+$")
OPENING = re.compile(
    r"^(?:(?:please|pls|ok|okay|hi|hello|so|and|but|also|then|thanks|tell me|do you know|can you tell me|i wonder)\b"
    r"[\s,!.]*)+",
    re.I,
)
VERBS = frozenset(
    words(
        """
    is are was were be been does do did has have had can could will would shall should may might must
    """
    )
)
PREPOSITION = re.compile(r"\s(?:of|at|in|for|by|from|about|on|to|with|behind)\s", re.I)
QUESTIONS = frozenset(words("who whom whose what which when where why how since until before after in on at for more"))
POSSESSOR = re.compile(r"((?:the\s+)?[\w-]+(?:\s[\w-]+){0,2})['’]s\s", re.I)
CALENDAR = frozenset(
    words(
        """
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
    september october november december christma easter
    """
    )
)
PEOPLE = frozenset(words("he she him her his hers"))
ROLES = frozenset(
    words(
        """
    ceo cfo cto coo cio cmo boss chief leader head owner founder chairman chairwoman chair president director manager
    treasurer secretary mayor governor minister king queen coach captain teacher principal dean chef author writer
    editor publisher producer singer drummer guitarist designer architect inventor mother father wife husband son
    daughter brother sister successor predecessor deputy assistant doctor nurse surgeon lawyer auditor
    """
    )
)
KINDS = (
    "company|firm|business|organi[sz]ation|institution|place|city|town|village|country|state|region|school|college"
    "|university|hospital|clinic|museum|gallery|library|hotel|restaurant|shop|store|bank|insurer|club|team|band|book|novel"
    "|film|movie|show|series|song|album|game|product|person|man|woman|guy|lady|author|building|church|river|mountain"
)
# Whose: "its fax number", "her office"; "her" alone is no owner.
OWNER = re.compile(
    rf"\b(?:its|their|his|(?:the|this|that) (?:{KINDS})['’]s|her(?=\s+(?!(?:and|or|in|at|on|to|as|there)\b)\w))\b",
    re.I,
)
PRONOUN = re.compile(rf"\b(?:it|they|them|he|she|him|her|(?:the|this|that) (?:{KINDS}))\b(?!['’])", re.I)
EXISTS = re.compile(r"\b(?:is|are|was|were) there\b[^?]*", re.I)
THERE = re.compile(r"\bthere\b(?=\W*$|\s(?:in|on|at|now|today)\b)", re.I)
GOING_ON = re.compile(r"^\W*(?:(?:and|or|but|also|so|then|ok|okay|thanks)\b[\s,.!]*)+", re.I)
WHAT_ABOUT = re.compile(r"^\W*(?:(?:and|or|but|ok|okay|so)\b[\s,]*)*(?:what|how) about\s+", re.I)


def subjects_of(text: str) -> list[str]:
    """Return what a question may be about, the likeliest first: its names, the last first, or else noun phrases."""
    sentence = re.split(r"(?<=[.!?])\s+", text.strip())[-1]
    if names := names_in(sentence):
        found = [each for name in names[::-1] for each in _with_noun(sentence, name)]
    else:
        plain = OPENING.sub("", END.sub("", sentence))
        *before, last = PREPOSITION.split(plain)
        found = [match.group(1) for match in POSSESSOR.finditer(plain)]
        found += [last] if before else []
        found += _behind_verb(before[0] if before else plain)
    return list(dict.fromkeys(filter(None, map(_trimmed, found))))[:MOST]


def names_in(text: str) -> list[str]:
    """Return the capitalised names of a text, in order; none where capitals say nothing, as in a title."""
    said = text.split()
    if len(said) > 3 and all(word[0].isupper() for word in said if word[0].isalpha()):
        return []
    found = []
    for run in RUN.finditer(text):
        names = re.split(r"(?<=['’]s)\s", run.group())[0].split()
        if run.start() == 0 and (OWNED.sub("", names[0].lower()) in FUNCTION or len(names) == 1):
            names = names[1:] if not OWNED.search(names[0]) or OWNED.sub("", names[0].lower()) in FUNCTION else names
        while names and (not names[0][0].isupper() or (names[0].isupper() and names[0].lower() in TITLES)):
            names.pop(0)  # "CFO of" of "CFO of Acme"
        plain = [OWNED.sub("", name).casefold() for name in names]
        about = [name for name in plain if name not in TITLES and name.removesuffix("s") not in CALENDAR]
        if about and names[0] != "I" and any(name[0].isalpha() for name in about) and len(names) <= LONGEST:
            found.append(OWNED.sub("", " ".join(names)))
    return found


def _with_noun(sentence: str, name: str) -> list[str]:
    """Return a name with the noun behind it, if one may be there: "Tarn compiler" of "the Tarn compiler".

    Without an article the name may also stand alone: "Acme founded" and "Acme" of "When was Acme founded?".
    """
    rest = re.match(r"(?:\s[a-z][\w-]*){0,2}", sentence[sentence.rindex(name) + len(name) :])
    nouns = list(takewhile(lambda word: word not in FUNCTION, rest.group().split() if rest else []))
    longer = [" ".join((name, *nouns[: n + 1])) for n in range(len(nouns))]
    article = re.search(rf"(?:\b(\w+)\s+)?\b(?:the|an?)\s+{re.escape(name)}", sentence, re.I)
    if not longer or article is None:
        return [name, *longer]
    inverted = (article.group(1) or "").lower() in VERBS  # a verb may follow: "When does the Linden Museum open?"
    return [*longer, name] if inverted else longer


def _behind_verb(plain: str) -> list[str]:
    """Return what follows a question's verb: "acme" of "who leads acme", also "acme open" of "when did acme open"."""
    said = plain.split()
    verbs = [i for i, word in enumerate(said) if word.lower() in VERBS]
    if not verbs:
        return [" ".join(said[2:])] if len(said) > 2 and said[0].lower() in FUNCTION else []
    rest = said[verbs[0] + 1 :]
    first = 2 if rest[:1] and rest[0].lower() in FUNCTION else 1
    return [" ".join(rest[:n]) for n in range(first, min(first + 3, len(rest) + 1))]


def _trimmed(phrase: str) -> str:
    """Return a noun phrase without the words around it that name nothing; empty if too long or nothing is left."""
    said = phrase.split()
    while said and said[-1].lower() in FUNCTION:
        said.pop()
    while said and said[0].lower() in FUNCTION and said[0].lower() != "the":
        said.pop(0)
    plain = [word.lower() for word in said if not word[0].isdigit()]
    names = [word for word in plain if word not in FUNCTION and word.removesuffix("s") not in CALENDAR]
    return " ".join(said) if names and len(said) <= LONGEST else ""


def about(text: str, subject: str) -> str:
    """Return a follow-up as a question of its own: "and its fax number?" about Acme is "Acme's fax number?"."""
    plain = GOING_ON.sub("", WHAT_ABOUT.sub("", text.strip()))
    owner = subject + ("'" if subject.endswith("s") else "'s")
    replaced = [(OWNER, owner), (PRONOUN, subject)]
    if not EXISTS.search(plain):
        replaced.append((THERE, f"in {subject}"))
    for pattern, new in replaced:
        if match := pattern.search(plain):
            return plain[: match.start()] + new + plain[match.end() :]
    if exists := EXISTS.search(plain):
        return f"{plain[: exists.end()].rstrip()} in {subject}{plain[exists.end() :]}"
    said = [word.lower() for word in re.findall(r"[\w'’]+", plain)]
    if not said or said[-1] in FUNCTION | QUESTIONS:
        return ""
    if said[0] in QUESTIONS:
        return f"{END.sub('', plain)} of {subject}?" if VERBS & set(said) else ""
    if VERBS & set(said):
        return ""
    asks = "Who is" if said[-1] in ROLES or said[0] == "head" else "What is"
    return f"{asks} {END.sub('', plain)} of {subject}?"


def instead(question: str, text: str) -> str:
    """Return a question about what a follow-up names in its stead: "Who leads Globex?" for "What about Globex?"."""
    named = named_in_stead(text)
    for subject in subjects_of(question):
        before, found, after = question.rpartition(subject)
        if found:
            return before + named + after
    return ""


def named_in_stead(text: str) -> str:
    """Return what "What about Globex?" or "And Globex?" names; empty where a text asks something itself."""
    named = END.sub("", GOING_ON.sub("", WHAT_ABOUT.sub("", text.strip())))
    asks = {word.lower() for word in named.split()} & (VERBS | QUESTIONS)
    return "" if asks or named == END.sub("", text.strip()) or len(named.split()) > LONGEST else named
