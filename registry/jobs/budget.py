"""The budget of preflights: what a worker may spend on a batch that nobody has approved yet."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

_MOST_ROUNDS = 64  # the steps of more are beyond every budget, and take a while to write down


@dataclass(frozen=True)
class PreflightBudget:
    """The most that a preflight takes. The operator's settings give it, and a collection's policy may lower it."""

    seconds: float = 1_800  # in all; a preflight that takes longer fails, which hinders nobody
    near_misses: int = 2_000  # questions asked beside the prompts
    tokens: int = 40_000  # of these questions together
    steps: int = 10_000  # of training, for each block; more are not trained before the approval

    def lowered(self, policy: Mapping[str, float]) -> "PreflightBudget":
        """Return the budget under a policy, which may not raise it."""
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: min(mine[name], most) for name, most in policy.items() if name in mine})


def steps_of(settings: Mapping[str, Any]) -> int:
    """Return the most steps of a block's training: each round takes twice as many as the one before."""
    rounds = min(int(settings["rounds"]), _MOST_ROUNDS)
    return int(settings["iterations"]) * ((1 << rounds) - 1)
