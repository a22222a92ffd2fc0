"""The demo's corrections and questions, read from the files beside this one."""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Correction:
    """A fact to correct, and two rephrases that training does not see."""

    prompt: str
    target: str
    rephrases: tuple[str, ...]
    reason: str
    source: str
    batch: int

    def as_edit(self) -> dict[str, str]:
        """Return the edit to submit: the prompt alone, so that the rephrases stay held out."""
        return {"prompt": self.prompt, "target": self.target, "reason": self.reason, "source": self.source}


@dataclass(frozen=True)
class Questions:
    """All corrections and questions of the demo."""

    corrections: list[Correction]
    unrelated: list[str]
    near_misses: list[str]  # a correction's question about another subject

    @property
    def all(self) -> list[str]:
        """All questions in one fixed order, so that every version is asked in the same batches."""
        asked = [c.prompt for c in self.corrections]
        asked += [rephrase for c in self.corrections for rephrase in c.rephrases]
        return asked + self.unrelated + self.near_misses


def read_questions() -> Questions:
    corrections = [
        Correction(**(record | {"rephrases": tuple(record["rephrases"])})) for record in _records("corrections.jsonl")
    ]
    unrelated = [line for line in _text("unrelated.txt").splitlines() if line.strip()]
    return Questions(corrections, unrelated, [record["prompt"] for record in _records("near_misses.jsonl")])


def _records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(name).splitlines() if line.strip()]


def _text(name: str) -> str:
    return files("worker.demo").joinpath(name).read_text("utf-8")
