"""Variants of a question: as people type and wrap it, and near misses made by rule. All seeded."""

import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from random import Random

from melo_core.words import ASKS, EXCLUSIVE, FUNCTION, OPPOSITE, PLACES

NEAR_KEYS = {
    key: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, key in enumerate(row)
}
SHORT = [
    ("What is", "What's"), ("what is", "whats"), ("Who is", "Who's"), ("who is", "whos"), ("Where is", "where's"),
    (" you ", " u "), (" are ", " r "), ("please", "pls"), (" and ", " & "), ("the ", ""), ("telephone", "phone"),
    ("How much is", "how much's"), ("thank you", "thx"), ("information", "info"), ("number", "no."), ("does", "do"),
]  # fmt: skip

# before, after: phrases that change nothing. changes: phrases that change the question, by a task to do with it or
# by another setting. added: a moment or a condition.
PHRASES: dict[str, list[str]] = json.loads(files("worker.verifier").joinpath("phrases.json").read_text("utf-8"))
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
NAMES = (
    "Marlow", "Sanders", "Okafor", "Lindqvist", "Petrov", "Tanaka", "Moreau", "Silva", "Novak", "Haddad", "Kowalski",
    "Brennan", "Whitfield", "Castellano", "Iyer", "Dubois", "Fontaine", "Ramirez", "Jansen", "Becker", "Harlow",
    "Fitzgerald", "Mendoza", "Rossi", "Larsen", "Osei", "Nakamura", "Volkov", "Abernathy", "Quinn",
)  # fmt: skip
VERBS = [
    ("defeat", "defeated"), ("marry", "married"), ("succeed", "succeeded"), ("pay", "paid"), ("teach", "taught"),
    ("hire", "hired"), ("sue", "sued"), ("buy", "bought"), ("invade", "invaded"), ("trust", "trusted"), ("owe", "owed"),
    ("supply", "supplied"), ("visit", "visited"), ("replace", "replaced"), ("follow", "followed"), ("lead", "led"),
    ("influence", "influenced"), ("report to", "reported to"), ("lend money to", "lent money to"), ("call", "called"),
]  # fmt: skip


def typo(text: str, random: Random, errors: int = 1) -> str:
    """Add typing errors to words of more than three letters: letters swapped, omitted, doubled, added or mistyped."""
    words = text.split(" ")
    able = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for i in random.sample(able, min(errors, len(able))):
        word, j = words[i], random.randrange(1, len(words[i]) - 1)
        kind = random.random()
        if kind < 0.3:
            words[i] = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
        elif kind < 0.55:
            words[i] = word[:j] + word[j + 1 :]
        elif kind < 0.7:
            words[i] = word[:j] + word[j] + word[j:]
        elif kind < 0.9:
            words[i] = word[:j] + random.choice(NEAR_KEYS.get(word[j].lower(), "e") or "e") + word[j + 1 :]
        else:
            words[i] = word[:j] + random.choice("etaoinsr") + word[j:]
    return " ".join(words)


def casual(text: str, random: Random) -> str:
    """Write the text as in a chat: lower case, no question mark, short forms."""
    for long, short in SHORT:
        if random.random() < 0.25:
            text = text.replace(long, short)
    if random.random() < 0.6:
        text = text.lower()
    if random.random() < 0.6:
        text = text.rstrip("?. ")
    if random.random() < 0.05:
        text = text.upper()
    if random.random() < 0.05:
        text = text.title()
    return text


def keywords(text: str, random: Random) -> str | None:
    """Return the words that one would type into a search field; None where too few are left."""
    kept = [
        w for w in re.findall(r"[\w'’.&-]+", text) if w.lower() not in FUNCTION or w.lower() in ("not", "who", "when")
    ]
    return " ".join(kept).lower() if len(kept) > 3 else None


def lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def wrapped(text: str, random: Random, strays: Sequence[str]) -> str:
    """Add something before or after the text that does not change the question."""
    kind = random.random()
    if kind < 0.55:
        before = random.choice(PHRASES["before"])
        if random.random() < 0.15:
            before += random.choice(PHRASES["before"])
        text = before + (lowered(text) if before[-2] not in ".!?:" and random.random() < 0.7 else text)
    elif kind < 0.75 and strays:
        text = random.choice(strays) + random.choice([" ", " ", "\n", "\n\n"]) + text
    if kind > 0.7 or random.random() < 0.15:
        text += random.choice(PHRASES["after"])
    return text


def changed(text: str, random: Random) -> str:
    """Wrap the text in something that changes the question."""
    return random.choice(PHRASES["changes"]).format(q=text, l=lowered(text))


def nameless(text: str, slot: str, random: Random) -> str | None:
    """Ask the question as a customer does, without the organisation's name; None where the name is needed.

    text: with the name as {slot}.
    """
    name = re.escape(f"{{{slot}}}")
    for pattern, replacements in (
        (rf"\b(?:does|do) (?:the )?{name} (?=\w)", ("do you ", "do u ")),
        (rf"\b(?:is|are) (?:the )?{name} (?=\w)", ("are you ",)),
        (rf"(?:the )?{name}(?:'s|’s) ", ("your ", "the ", "ur ", "our ")),
        (rf",? \b(?:at|of|in|from|by|with|for|to) (?:the )?{name}", ("", "", " here", " at your place")),
        (rf"^{name} ", ("", "your ")),
    ):
        if re.search(pattern, text, re.I):
            made = re.sub(pattern, random.choice(replacements), text, count=1, flags=re.I)
            made = made[:1].upper() + made[1:] if text[:1].isupper() else made
            return made if f"{{{slot}}}" not in made and len(made.split()) > 2 else None
    return None


def _with_moment(random: Random) -> str:
    return random.choice(PHRASES["added"]).format(
        y=random.randrange(1930, 2031), m=random.choice(MONTHS), d=random.randrange(1, 29)
    )


def added(text: str, random: Random) -> str:
    """Add a moment or a condition."""
    end = "?" if text.rstrip().endswith("?") else ""
    return text.rstrip("?. ") + _with_moment(random) + end


def other_number(text: str, random: Random) -> str | None:
    """Replace one number by another."""
    found = list(re.finditer(r"\d+", text))
    if not found:
        return None
    hit = random.choice(found)
    other = int(hit.group()[:9]) + random.choice([-10, -4, -3, -2, -1, 1, 2, 3, 4, 10])
    return text[: hit.start()] + str(abs(other) + (other == int(hit.group()[:9]))) + text[hit.end() :]


def opposite(text: str, random: Random) -> str | None:
    """Replace one word by its opposite."""
    words = text.split(" ")
    asked = [w.strip("?.,").lower() for w in words]
    able = [(i, pair) for i, w in enumerate(asked) if w for pair in OPPOSITE if w in pair]
    if not able:
        return None
    i, opposites = random.choice(sorted(able, key=lambda x: (x[0], sorted(x[1]))))
    (other,) = opposites - {asked[i]}
    words[i] = other + ("?" if words[i].endswith("?") else "")
    return " ".join(words)


def exclusive(text: str, random: Random) -> str | None:
    """Replace a word by another from a series of which only one can hold."""
    words = text.split(" ")
    plain = [word.strip("?.,").lower() for word in words]
    able = [(i, line) for i, word in enumerate(plain) for line in EXCLUSIVE if any(word in forms for forms in line)]
    if not able:
        return None
    i, line = random.choice(able)
    others = sorted(form for forms in line if plain[i] not in forms for form in forms)
    words[i] = random.choice(others) + ("?" if words[i].endswith("?") else "")
    return " ".join(words)


def _question_word(text: str, random: Random) -> str | None:
    first, _, rest = text.partition(" ")
    if first.lower() not in ASKS or not rest:
        return None
    other = random.choice([w for w in ("when", "where", "why", "who", "how") if w != ASKS[first.lower()]])
    return (other.capitalize() if first[0].isupper() else other) + " " + rest


def negated(text: str, random: Random) -> str | None:
    """Add "not" after the verb."""
    hit = re.search(r"\b(is|are|was|were|does|do|did|can|should|may|has|will|must)\b(?! not)", text)
    if hit is None or hit.end() + 2 > len(text):
        return None
    if random.random() < 0.5:
        return text[: hit.end()] + " not" + text[hit.end() :]
    rest = text[hit.end() :].split(" ")
    at = min(len(rest), random.choice([2, 3]))
    return text[: hit.end()] + " ".join([*rest[:at], "not", *rest[at:]])


def _named(text: str, random: Random) -> str | None:
    """Replace one name by another."""
    found = list(re.finditer(r"(?<=\s)[A-Z][\w'’-]+(?:\s[A-Z][\w'’-]+)*", text))
    found += [m for m in re.finditer(r"\w+", text) if m.group().lower() in PLACES]
    if not found:
        return None
    hit = random.choice(found)
    if hit.group().lower() in PLACES:
        other = random.choice(sorted(PLACES - {hit.group().lower()}))
        other = other.capitalize() if hit.group()[0].isupper() else other
    elif " " in hit.group() and random.random() < 0.5:
        parts = hit.group().split(" ")
        parts[random.randrange(len(parts))] = random.choice(NAMES)
        other = " ".join(parts)
    else:
        other = " ".join(random.sample(NAMES, 1 + (" " in hit.group())))
    return text[: hit.start()] + other + text[hit.end() :]


def _ordered(text: str, random: Random) -> str | None:
    """Swap two names."""
    found = list(re.finditer(r"(?<=\s)[A-Z][\w'’-]*[a-z](?:\s[A-Z][\w'’-]+)*", text))
    if len(found) < 2:
        return None
    a, b = sorted(random.sample(found, 2), key=lambda m: m.start())
    if re.search(r"\b(and|or|between)\b", text[max(0, a.start() - 12) : b.start()]):
        return None
    return text[: a.start()] + b.group() + text[a.end() : b.start()] + a.group() + text[b.end() :]


MISSES: list[tuple[Callable[[str, Random], str | None], float]] = [
    (added, 2), (other_number, 2), (opposite, 2), (exclusive, 2), (_question_word, 1), (negated, 1), (_named, 2),
    (_ordered, 2), (changed, 2),
]  # fmt: skip


def near_miss(text: str, random: Random) -> str | None:
    """Make a question that differs decisively from the text; None where the chosen rule finds nothing to change."""
    rule = random.choices([r for r, _ in MISSES], [w for _, w in MISSES])[0]
    made = rule(text, random)
    return None if made is None or made.casefold() == text.casefold() else made


def parties(random: Random, names: Sequence[str]) -> tuple[str, str, bool]:
    """Return two questions about who did what to whom, with the same two parties, and whether they ask the same."""
    a, b = random.sample(names, 2)
    verb, past = random.choice(VERBS)
    kind = random.random()
    if kind < 0.2:
        return f"Did {a} {verb} {b}?", f"Did {b} {verb} {a}?", False
    if kind < 0.3:
        return f"Who {past} {a}?", f"Whom did {a} {verb}?", False
    if kind < 0.45:
        return f"When did {a} {verb} {b}?", f"When did {b} {verb} {a}?", False
    if kind < 0.55:
        return f"Why did {a} {verb} {b}?", f"For what reason did {b} {verb} {a}?", False
    if kind < 0.7 and " " not in verb:
        return f"Did {a} {verb} {b}?", f"Was {b} {past} by {a}?", True
    if kind < 0.85:
        return f"When did {a} {verb} {b}?", f"In what year did {a} {verb} {b}?", True
    return f"Why did {a} {verb} {b}?", f"For what reason did {a} {verb} {b}?", True
