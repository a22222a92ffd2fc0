"""Prompts that no edit covers, but that look like those which some edit does."""

import random
import re
from collections.abc import Sequence

from worker.bench.data import BenchEdit

MOST = 304  # prompts of one sort


def swapped_subjects(edits: Sequence[BenchEdit], others: Sequence[BenchEdit], seed: int = 0) -> list[str]:
    """Each edit's own prompt about another real subject: the nearest that a false activation can be.

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


def other_facts(edits: Sequence[BenchEdit], others: Sequence[BenchEdit]) -> list[str]:
    """Questions of the same templates about other real subjects: facts of the file that were not edited."""
    taken = {edit.subject.lower() for edit in edits if edit.subject}
    return _sample([other.prompt for other in others if other.subject.lower() not in taken])


def neighbours(edits: Sequence[BenchEdit]) -> list[str]:
    """The near neighbours that the data set itself gives."""
    asked = {edit.prompt for edit in edits}
    return _sample([n for n in dict.fromkeys(n for edit in edits for n in edit.neighbours) if n not in asked])


def _sample(prompts: list[str]) -> list[str]:
    return prompts if len(prompts) <= MOST else random.Random(0).sample(prompts, MOST)


def _swap(edit: BenchEdit, subject: str) -> str | None:
    if not edit.subject or edit.subject.lower() not in edit.prompt.lower():
        return None
    return re.sub(re.escape(edit.subject), lambda _: subject, edit.prompt, flags=re.IGNORECASE)
