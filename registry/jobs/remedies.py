"""What whoever decides on a batch can do about an edit that lies near another."""

from collections.abc import Iterable

from registry.jobs.schemas import NearEdit


def remedies(batch_id: int, edit_id: int, near: Iterable[NearEdit], *, alone: bool = False) -> list[str]:
    """Replace, skip or cancel, for each near duplicate or contradiction; empty where there is none.

    alone: it is all that the batch has, so that it cannot be left out.
    """
    skip = "" if alone else f"leave it out (melo batch approve {batch_id} --except {edit_id}), "
    return [
        f"It {_meets(other)}: {_replace(other)}{skip}or reject the batch (melo batch reject {batch_id} --reason …)."
        for other in near
        if other.is_duplicate or other.is_contradiction
    ]


def _meets(other: NearEdit) -> str:
    """By ids alone: no text of an edit that may have to be erased."""
    if other.is_duplicate:
        return f"nearly repeats edit {other.edit_id}, which has the same target"
    return f"nearly contradicts edit {other.edit_id}, which has another target"


def _replace(other: NearEdit) -> str:
    return "" if other.in_batch else f"submit it again with replaces={other.edit_id}, "
