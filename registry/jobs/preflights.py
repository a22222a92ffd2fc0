"""What an approver reads from a preflight: remedies, and how many near misses the batch leaves alone."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it would slow down the command line
    from registry.jobs.schemas import EditPreflight, NearEdit, NearMiss


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


def remedies(batch_id: int, edit_id: int, near: "Iterable[NearEdit]", *, alone: bool = False) -> list[str]:
    """Return the remedies (replace, skip or reject) for each near duplicate or contradiction.

    alone: the edit is the only one in the batch, so it cannot be left out.
    """
    skip = "" if alone else f"leave it out (melo batch approve {batch_id} --except {edit_id}), "
    return [
        f"It {_meets(other)}: {_replace(other)}{skip}or reject the batch (melo batch reject {batch_id} --reason …)."
        for other in near
        if other.is_duplicate or other.is_contradiction
    ]


def _meets(other: "NearEdit") -> str:
    """Describe the conflict by ids only: the text of an edit may have to be erased."""
    if other.is_duplicate:
        return f"nearly repeats edit {other.edit_id}, which has the same target"
    return f"nearly contradicts edit {other.edit_id}, which has another target"


def _replace(other: "NearEdit") -> str:
    return "" if other.in_batch else f"submit it again with `replaces={other.edit_id}`, "
