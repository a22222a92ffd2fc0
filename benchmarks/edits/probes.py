"""Probes: prompts that no edit covers, but that resemble those that an edit does."""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from benchmarks.edits.data import BenchEdit
from benchmarks.edits.figures import plain
from benchmarks.edits.wording import as_question

MOST = 304  # prompts of one sort
TEMPLATES_TRIED = 24  # of other edits, for a subject

# Other questions about a subject, by the form of the prompt, each with a word of an edit that may ask the same.
ABOUT: Mapping[str, Mapping[str, str]] = {
    "qa": {
        "Write a poem about {s}.": "poem",
        "What is the history of {s}?": "history",
        "Why is {s} famous?": "famous",
        "Who founded {s}?": "found",
        "How much does {s} cost?": "cost",
        "Is {s} any good?": "good",
    },
    "completion": {
        "The history of {s} began": "history",
        "{s} is best known for": "known for",
        "Critics of {s} say": "critics",
        "The name {s} comes from": "named",
    },
}


def swapped_subjects(edits: Sequence[BenchEdit], others: Sequence[BenchEdit], seed: int = 0) -> list[str]:
    """Ask each edit's own prompt about another real subject: the hardest case for scope.

    Subjects come from facts that are not edited, else from the other edits.
    """
    taken = {edit.subject.lower() for edit in edits}
    pool = sorted({o.subject for o in others if o.subject and o.subject.lower() not in taken})
    pool = pool or sorted({edit.subject for edit in edits if edit.subject})
    shuffled = random.Random(seed)
    asked = {edit.prompt.lower() for edit in edits}
    prompts = []
    for edit in edits:
        candidates = [s for s in shuffled.sample(pool, min(8, len(pool))) if s.lower() != edit.subject.lower()]
        swapped = [_swap(edit, subject) for subject in candidates]
        prompts += [prompt for prompt in swapped if prompt and prompt.lower() not in asked][:1]
    return prompts


def same_subject(edits: Sequence[BenchEdit], seed: int = 0) -> list[str]:
    """Ask other questions about subjects that have an edit: half in other edits' words, half in fixed ones.

    Two edits whose prompts or rephrases share a form, once the subjects are removed, ask one relation: their words are
    not used. The same relation in entirely different words cannot be recognised, and remains.
    """
    drawn = random.Random(seed)
    asked = {plain(text) for edit in edits for text in (edit.prompt, *edit.rephrases)}
    forms = [_forms(edit) for edit in edits]
    of_subject: dict[str, list[int]] = {}
    for i, edit in enumerate(edits):
        if edit.subject:
            of_subject.setdefault(edit.subject.lower(), []).append(i)
    subjects = list(of_subject.values())
    drawn.shuffle(subjects)
    swapped, fixed = list[list[str]](), list[list[str]]()
    for numbers in subjects:
        subject, kind = edits[numbers[0]].subject, edits[numbers[0]].kind
        own = set[str]().union(*(forms[i] for i in numbers))
        tried = drawn.sample(range(len(edits)), min(TEMPLATES_TRIED, len(edits)))
        others = [_swap(edits[i], subject) for i in tried if own.isdisjoint(forms[i])]
        swapped.append([prompt for prompt in others if prompt and plain(prompt) not in asked])
        about = [
            form.replace("{s}", subject) for form, word in ABOUT[kind].items() if not any(word in said for said in own)
        ]
        drawn.shuffle(about)
        fixed.append([prompt for prompt in about if plain(prompt) not in asked])
    half = MOST // 2
    return list(dict.fromkeys([*_in_turn(swapped)[:half], *_in_turn(fixed)[:half]]))


def other_facts(edits: Sequence[BenchEdit], others: Sequence[BenchEdit]) -> list[str]:
    """Return questions of the same templates about other real subjects: facts of the file that were not edited."""
    taken = {edit.subject.lower() for edit in edits if edit.subject}
    return _sample([other.prompt for other in others if other.subject.lower() not in taken])


def neighbours(edits: Sequence[BenchEdit]) -> list[str]:
    """Return the near neighbours that the data set itself provides."""
    asked = {edit.prompt for edit in edits}
    return _sample([n for n in dict.fromkeys(n for edit in edits for n in edit.neighbours) if n not in asked])


def _forms(edit: BenchEdit) -> set[str]:
    """Return an edit's prompts without their subject; for a completion also the question that it asks."""
    asked = [edit.prompt, *edit.rephrases]
    if edit.kind == "completion":
        asked.append(as_question(edit.prompt, edit.subject))
    return {plain(re.sub(re.escape(edit.subject), "", text, flags=re.IGNORECASE)) for text in asked}


def _in_turn(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return the first of each list, then the second of each, and so on; each prompt once."""
    return list(dict.fromkeys(prompt for prompt in chain(*zip_longest(*lists)) if prompt))


def _sample(prompts: list[str]) -> list[str]:
    return prompts if len(prompts) <= MOST else random.Random(0).sample(prompts, MOST)


def _swap(edit: BenchEdit, subject: str) -> str | None:
    if not edit.subject or edit.subject.lower() not in edit.prompt.lower():
        return None
    return re.sub(re.escape(edit.subject), lambda _: subject, edit.prompt, flags=re.IGNORECASE)
