"""The measured method and its alternatives, all behind one protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.edits.data import BenchEdit


@dataclass(frozen=True)
class Reply:
    """An answer by free generation."""

    text: str
    token_ids: tuple[int, ...]
    to_the_query: bool = True  # whether the model gave it to the query itself


@dataclass(frozen=True)
class Applied:
    """The effect of a batch on earlier ones."""

    conflicts: int = 0  # edits whose scope overlaps that of an edit with another answer
    forgotten: int = 0  # prompts of earlier edits that no edit covers any more
    unreached: int = 0  # edits whose loss stayed above its target
    unlearned: int = 0  # edits whose own prompt was not answered with the target right after learning


@dataclass(frozen=True)
class Size:
    """The storage that the edits so far take."""

    bytes: int
    parameters: int


@dataclass(frozen=True)
class RouteTime:
    """Seconds to decide whether an edit covers one prompt."""

    key: float  # computing the prompt's key
    lookup: float  # searching the edits
    verify: float | None = None  # reading the prompt beside the candidates; None without a verifier


class Peer(Protocol):
    """A way to correct a model. Batches come one after the other and are never seen again."""

    name: str
    settings_used: dict[str, object]  # settings needed to repeat a figure

    def apply(self, edits: Sequence[BenchEdit]) -> Applied:
        """Learn a batch. An edit's rephrases are those that its author gave."""

    def covers(self, prompts: Sequence[str], kind: str) -> list[bool]:
        """Tell which prompts anything but the base model itself would answer."""

    def covering(self, prompts: Sequence[str], kind: str) -> list[int | None] | None:
        """Return the edit that covers each prompt, by its place in the order of arrival; None where no edit does.

        Returns None instead of the list where it cannot be told, or where no answer is meant to be an edit's target
        alone.
        """

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Answer greedily with at most `longest` tokens, in one batch."""

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Return the mean cross-entropy, nats a token, of each continuation of its prompt."""

    def size(self) -> Size:
        """Return the size of what is currently stored."""

    def route_time(self, prompt: str, kind: str) -> RouteTime | None:
        """Time the routing of a prompt; None where nothing is routed."""
