"""What an approver can do about an edit that lies near another."""

from collections.abc import Iterable

from registry.jobs.schemas import NearEdit


def remedies(batch_id: int, edit_id: int, near: Iterable[NearEdit], *, alone: bool = False) -> list[str]:
    """Return the remedies (replace, skip or reject) for each near duplicate or contradiction.

    alone: the edit is the only one in the batch, so it cannot be left out.
    """
    skip = "" if alone else f"leave it out (melo batch approve {batch_id} --except {edit_id}), "
    return [
        f"It {_meets(other)}: {_replace(other)}{skip}or reject the batch (melo batch reject {batch_id} --reason …)."
        for other in near
        if other.is_duplicate or other.is_contradiction
    ]


def _meets(other: NearEdit) -> str:
    """Describe the conflict by ids only: the text of an edit may have to be erased."""
    if other.is_duplicate:
        return f"nearly repeats edit {other.edit_id}, which has the same target"
    return f"nearly contradicts edit {other.edit_id}, which has another target"


def _replace(other: NearEdit) -> str:
    return "" if other.in_batch else f"submit it again with `replaces={other.edit_id}`, "
