"""Shares with their uncertainty, and the matching of answers with targets."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

Z95 = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Share:
    """A share, hits of total, with its 95 % interval."""

    hits: int
    total: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> "Share":
        seen = list(outcomes)
        return cls(sum(seen), len(seen))

    @property
    def value(self) -> float | None:
        """The share; None where nothing was asked."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval (1927), which is sound near 0 and 1 too."""
        if not self.total:
            return None
        n, p = self.total, self.hits / self.total
        centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


def plain(text: str) -> str:
    """Return the text that exact match compares: lower case, without punctuation, single spaces."""
    return " ".join(re.sub(r"[^\w ]", "", text.lower()).split())


def matches(answer: str, target: str) -> bool:
    """Tell whether a whole answer matches exactly, except for case, punctuation and spaces."""
    return plain(answer) == plain(target)


def contains(answer: str, target: str) -> bool:
    """Tell whether the target's words occur anywhere in the answer, which may be a whole sentence."""
    return bool(plain(target)) and f" {plain(target)} " in f" {plain(answer)} "


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, or None where there are no values."""
    seen = list(values)
    return sum(seen) / len(seen) if seen else None
