"""What every engine takes and gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from melo_core.block import Block
from melo_core.settings import Positions
from registry.base.errors import RegistryError
from serving.engines.sampling import Sampling

Ended = Literal["stop", "length", "cancelled"]


class Overloaded(RegistryError):
    status = 429
    code = "overloaded"
    title = "Too many requests are waiting"
    headers: Mapping[str, str] = {"Retry-After": "1"}


class Stopping(RegistryError):
    status = 503
    code = "stopping"
    title = "The server is stopping"


@dataclass(frozen=True)
class Token:
    """A generated token with its log probability, and the most probable ones in its place."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Acting:
    """The block that acts on an answer. weights: None for an engine that finds blocks by their digest."""

    sha256: str
    weights: Block | None
    positions: Positions = "answer"


@dataclass(eq=False)
class Generation:
    """Tokens to generate after a prompt.

    block: acts from the last prompt token on; None: the base model alone. top_logprobs: how many of the most probable
    tokens are told in each place; None: no log probabilities at all. schema: a JSON schema that the text keeps to, as
    JSON. on_token: called with each token, in a thread of
    the engine; True ends the generation. on_end: called once, with the reason or with the error.
    """

    ids: list[int]
    limit: int
    block: Acting | None
    on_token: Callable[[Token], bool]
    on_end: Callable[[Ended | Exception], None]
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None
    schema: str | None = None
    out: list[int] = field(default_factory=list)
    cancelled: bool = False  # set by the reader; the engine ends the generation soon after
    ended: Ended | Exception | None = None

    def end(self, why: Ended | Exception) -> None:
        """Tell the reader, once."""
        if self.ended is None:
            self.ended = why
            self.on_end(why)


class Engine(Protocol):
    """Generates for many requests at once, each with its own block."""

    by_digest: bool
    """Whether the engine finds blocks by their digest, so that nobody else need read them."""

    @property
    def slots(self) -> int:
        """Return how many generations can run at once."""

    @property
    def waiting(self) -> int:
        """Return how many generations wait."""

    @property
    def running(self) -> int:
        """Return how many generations run."""

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        """Return how many prompt tokens were asked for, and how many of them were not computed again."""

    def submit(self, generation: Generation) -> None:
        """Queue a generation. Raises Overloaded or Stopping."""

    def forget(self, digests: frozenset[str]) -> None:
        """Have blocks removed from wherever the engine keeps them by digest. Returns at once."""

    def stop(self, seconds: float) -> None:
        """Take nothing new in, and end when what is there has been answered, or after some time."""
