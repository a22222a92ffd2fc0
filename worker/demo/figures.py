"""The demo's measurements, all by free generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.demo.questions import Questions

Tokens = Mapping[str, tuple[int, ...]]  # by prompt
Texts = Mapping[str, str]


@dataclass(frozen=True)
class Figures:
    """The figures written by `melo demo --json`."""

    success: float  # share of corrections answered with exactly the target
    generality: float  # share of their rephrases
    untouched: float  # share of unrelated questions and near misses answered with the base model's exact tokens
    rollback_equal: bool  # all answers and the digest after the rollback equal those of version 1
    reload_equal: bool  # a second process, with only the database, gives the same tokens
    audit_ok: bool
    edits: int
    train_seconds: float  # training the blocks, and asking each for its answer
    total_seconds: float


def success(questions: Questions, answers: Texts) -> float:
    return _share([answers[c.prompt] == c.target for c in questions.corrections])


def generality(questions: Questions, answers: Texts) -> float:
    return _share([answers[rephrase] == c.target for c in questions.corrections for rephrase in c.rephrases])


def untouched(questions: Questions, base: Tokens, now: Tokens) -> float:
    return _share([base[prompt] == now[prompt] for prompt in questions.unrelated + questions.near_misses])


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)
