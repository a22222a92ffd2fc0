"""Near misses of an edit's prompt: similar questions that the edit must not answer. Seeded."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from random import Random

from melo_core.scope import same_text
from melo_core.words import FUNCTION
from worker.verifier.variants import (
    MONTHS,
    NAMES,
    added,
    changed,
    exclusive,
    lowered,
    negated,
    opposite,
    other_number,
)

MOST = 12  # near misses of an edit
MOST_OF_A_KIND = 2
LONGEST_SUBJECT = 6  # words
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class MissKind(StrEnum):
    """The ways in which a near miss differs from the prompt, in the order in which they are made."""

    ATTRIBUTE = "attribute"  # something else about the subject
    SUBJECT = "subject"  # the same about another subject
    NUMBER = "number"  # another year or number, or an added one
    OPPOSITE = "opposite"  # the opposite, or another of several mutually exclusive words
    NEGATED = "negated"
    NEXT = "next"  # a follow-up question about the answer
    TASK = "task"  # a task to do with the subject or the question
    ASKED = "asked"  # a question that the base model asks about the subject


@dataclass(frozen=True)
class Made:
    """A near miss."""

    kind: MissKind
    text: str
    subject_of: int | None = None  # the other edit whose subject it uses


@dataclass(frozen=True)
class Asked:
    """A prompt with its subject (None where none is recognised)."""

    prompt: str
    subject: str | None

    @classmethod
    def of(cls, prompt: str) -> "Asked":
        return cls(prompt, subject_of(prompt))

    @cached_property
    def frame(self) -> frozenset[str]:
        """The words besides the subject."""
        return frozenset(_words(self.prompt.replace(self.subject, " ") if self.subject else self.prompt))

    def about(self, subject: str) -> str:
        """Return the same question about another subject."""
        assert self.subject is not None
        before, _, after = self.prompt.rpartition(self.subject)
        return before + subject + after


# Questions about a subject, and the words of a prompt that asks the same: such a question is not a near miss.
ATTRIBUTES: tuple[tuple[str, str], ...] = (
    ("When was {s} founded?", "when year date founded founding established started begin began history"),
    ("What is the phone number of {s}?", "phone telephone number call contact reach"),
    ("How old is {s}?", "old age born birthday when year"),
    ("Where is {s}?", "where located location place address city country capital office headquarters"),
    ("Who founded {s}?", "who founded founder established started"),
    ("What does {s} cost?", "cost costs price fee much pay"),
    ("How large is {s}?", "large size many big area population employees"),
    ("What is the website of {s}?", "website web site url address online"),
)
NEXT: tuple[tuple[str, str], ...] = (
    ("Where was {t} born?", "born birthplace"),
    ("How old is {t}?", "old age"),
    ("What is {t} known for?", "known famous"),
)
TASKS = ("Write a poem about {s}.", "Tell me a joke about {s}.", "Translate the name {s} into French.")
QUESTIONS = "Write three other questions about {s}."  # for the base model

NAME = r"[A-Z][\w&.’'-]*\w|[A-Z]"
RUN = re.compile(rf"(?<![\w.])(?:{NAME})(?:\s(?:{NAME}|\d[\w.]*))*")
END = re.compile(r"[\s?.!,:;]+$")
LIST_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):]|question\s*\d*\s*:)\s*", re.I)
OWNED = re.compile(r"['’]s?$")
VERBS = frozenset(("is", "are", "was", "were", "has", "had", "will", "can"))  # what follows a name that begins a text
NOT_ABOUT = frozenset((*MONTHS, *DAYS, "I"))


def near_misses(
    prompt: str,
    target: str,
    others: Mapping[int, Asked],
    seed: int,
    asked: Sequence[str] = (),
    most: int = MOST,
) -> list[Made]:
    """Make at most `most` near misses of a prompt, at most two of a kind, the first of each kind before any second.

    others: prompts of other edits by their ids, whose subjects may replace the prompt's. asked: the base model's
    questions about the subject. seed: decides, with the prompt, which near misses are made.
    """
    random = Random(f"{seed} {prompt}")
    mine = Asked.of(prompt)
    by_kind: dict[MissKind, Iterator[Made]] = {
        MissKind.ATTRIBUTE: _all(MissKind.ATTRIBUTE, _attributes(mine, random)),
        MissKind.SUBJECT: _subjects(mine, others, random),
        MissKind.NUMBER: _all(MissKind.NUMBER, _numbers(prompt, random)),
        MissKind.OPPOSITE: _all(MissKind.OPPOSITE, _by_rules(prompt, random, opposite, exclusive)),
        MissKind.NEGATED: _all(MissKind.NEGATED, _by_rules(prompt, random, negated)),
        MissKind.NEXT: _all(MissKind.NEXT, _next(mine, target, random)),
        MissKind.TASK: _all(MissKind.TASK, _tasks(mine, random)),
        MissKind.ASKED: _all(MissKind.ASKED, iter(asked)),
    }
    seen, made = {loose(prompt)}, dict[MissKind, list[Made]]()
    for kind, found in by_kind.items():
        for each in found:
            if loose(each.text) not in seen:
                seen.add(loose(each.text))
                made.setdefault(kind, []).append(each)
            if len(made.get(kind, ())) == MOST_OF_A_KIND:
                break
    rounds = [of_kind[i] for i in range(MOST_OF_A_KIND) for of_kind in made.values() if i < len(of_kind)]
    return rounds[:most]


def subject_of(prompt: str) -> str | None:
    """Return the subject of a prompt: its last run of capitalised words, or else the words after its last "of".

    None where neither exists, or the capitals mean nothing, as in a title.
    """
    words = prompt.split()
    in_title = len(words) > 3 and all(word[0].isupper() for word in words)
    runs = [] if in_title else [run for match in RUN.finditer(prompt) if (run := _name_in(match))]
    if runs:
        return runs[-1] if len(runs[-1].split()) <= LONGEST_SUBJECT else None
    _, found, rest = END.sub("", prompt).rpartition(" of ")
    words = rest.split()
    while words and words[-1].lower() in FUNCTION:  # "… of acme is", a completion
        words.pop()
    return " ".join(words) if found and 0 < len(words) <= LONGEST_SUBJECT else None


def is_name(target: str) -> bool:
    """Tell whether an answer looks like the name of a person or thing."""
    words = END.sub("", target).split()
    return 0 < len(words) <= 4 and all(re.fullmatch(r"[A-Z][\w’'.-]*", word) for word in words)


def questions_in(answer: str, prompt: str) -> list[str]:
    """Return the lines of an answer that end in a question mark, without list markers and without the prompt."""
    lines = (LIST_MARK.sub("", line).strip().strip('"“”*') for line in answer.splitlines())
    asked = dict.fromkeys(line for line in lines if line.endswith("?") and len(line.split()) > 1)
    return [line for line in asked if loose(line) != loose(prompt)]


def loose(text: str) -> str:
    """Return a text in the form compared: without case, and without its final punctuation."""
    return END.sub("", same_text(text)).casefold()


def is_about(text: str, subject: str) -> bool:
    """Tell whether the subject occurs in the text, as whole words."""
    return re.search(rf"(?<!\w){re.escape(loose(subject))}(?!\w)", loose(text)) is not None


def _name_in(run: re.Match[str]) -> str:
    """Return the name in a run of capitalised words.

    Leaves out a sentence's first word, days, and anything after a possessive.
    """
    words = re.split(r"(?<=['’]s)\s", run.group())[0].split()
    if run.start() == 0 and words[0].lower() in FUNCTION:
        words.pop(0)
    elif run.start() == 0 and len(words) == 1 and not OWNED.search(words[0]):
        follows = run.string[run.end() :].split()[:1]
        words = words if follows and follows[0] in VERBS else []
    words = [word for word in words if word.rstrip("s") not in NOT_ABOUT]
    return OWNED.sub("", " ".join(words)) if any(word[0].isalpha() for word in words) else ""


def _all(kind: MissKind, texts: Iterator[str]) -> Iterator[Made]:
    return (Made(kind, text) for text in texts)


def _attributes(mine: Asked, random: Random) -> Iterator[str]:
    if mine.subject is not None:
        yield from _not_asked(ATTRIBUTES, mine, random, s=mine.subject)


def _next(mine: Asked, target: str, random: Random) -> Iterator[str]:
    if is_name(target):
        yield from _not_asked(NEXT, mine, random, t=END.sub("", target))


def _not_asked(templates: Sequence[tuple[str, str]], mine: Asked, random: Random, **slots: str) -> Iterator[str]:
    for template, same in random.sample(templates, len(templates)):
        if mine.frame.isdisjoint(same.split()):
            yield template.format(**slots)


def _tasks(mine: Asked, random: Random) -> Iterator[str]:
    if mine.subject is not None:
        yield random.choice(TASKS).format(s=mine.subject)
    yield changed(mine.prompt, random)


def _subjects(mine: Asked, others: Mapping[int, Asked], random: Random) -> Iterator[Made]:
    """Yield near misses with the subjects of other edits, those that ask the same first, then with a made-up name."""
    if mine.subject is None:
        return
    able = [
        (id, other.subject)
        for id, other in sorted(others.items())
        if other.subject is not None
        and loose(other.subject) != loose(mine.subject)
        and other.subject[0].isupper() == mine.subject[0].isupper()
        and len(mine.frame & other.frame) * 2 > len(mine.frame | other.frame)
    ]
    if able:
        id, subject = random.choice(able)
        yield Made(MissKind.SUBJECT, mine.about(subject), id)
    made_up = random.sample(NAMES, min(2, len(mine.subject.split())))
    yield Made(MissKind.SUBJECT, mine.about(" ".join(made_up)))


def _numbers(prompt: str, random: Random) -> Iterator[str]:
    other = other_number(prompt, random)
    if other is not None:
        yield other
    last = END.sub("", prompt).split()[-1:]
    if last and last[0].lower() in FUNCTION:  # a completion: nothing can be added at its end
        yield f"In {random.randrange(1930, 2010)}, {lowered(prompt) if _begins_plainly(prompt) else prompt}"
    else:
        yield added(prompt, random)


def _begins_plainly(prompt: str) -> bool:
    """Tell whether the first word is capitalised only because it is the first."""
    return prompt.split()[0].lower() in FUNCTION


def _by_rules(prompt: str, random: Random, *rules: Callable[[str, Random], str | None]) -> Iterator[str]:
    for rule in rules:
        if (made := rule(prompt, random)) is not None:
            yield made


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
