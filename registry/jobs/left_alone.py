"""How many near misses a batch leaves alone, over the edits of its preflight."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it would slow down the command line
    from registry.jobs.schemas import EditPreflight, NearMiss


@dataclass(frozen=True)
class Tried:
    """Near misses, and how many of them none of the given edits would answer."""

    left_alone: int
    count: int

    @property
    def share(self) -> float | None:
        """The share of near misses that are left alone; None if there are none."""
        return self.left_alone / self.count if self.count else None

    @classmethod
    def of(cls, near_misses: "Collection[NearMiss]", edit_ids: Collection[int]) -> "Tried":
        """Count the near misses that none of the given edits would answer."""
        return cls(sum(each.by_edit not in edit_ids for each in near_misses), len(near_misses))


def tried(found: "Iterable[EditPreflight]", edit_ids: Collection[int]) -> Tried:
    """Return the near misses of these edits, and how many of them none of these edits would answer."""
    return Tried.of([miss for each in found if each.edit_id in edit_ids for miss in each.near_misses], edit_ids)
