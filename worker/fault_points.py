"""Named points that a worker passes while it works on a job, at which it may die or be observed."""

from enum import StrEnum


class FaultPoint(StrEnum):
    """In the order of a job's life. A preflight passes those that it has a part in."""

    WOKEN = "woken"  # about to look for work; nothing is claimed
    CLAIMING = "claiming"  # in the uncommitted transaction of the claim
    CLAIMED = "claimed"  # the claim is committed; nothing is done
    LOADED = "loaded"  # model and encoder are in memory
    TRAINING = "training"  # the first step is done
    TRAINED = "trained"  # the blocks are in memory
    SCOPED = "scoped"  # the keys are in memory
    INDEXED = "indexed"  # the index of the would-be version is built
    EVALUATED = "evaluated"  # what must arrive and what must not change was asked
    FINISHING = "finishing"  # in the finishing transaction; nothing is written
    REPORTED = "reported"  # in the same transaction: the report is written
    WRITTEN = "written"  # in the same transaction: blocks, points, version, audit and job state are written
    FINISHED = "finished"  # the finishing transaction is committed
    FAILING = "failing"  # in the transaction that records a failure, final or to be retried; not committed
    FAILED = "failed"  # the failure is committed
    GIVING_BACK = "giving_back"  # in the transaction that puts the job back in the queue; not committed
    ACKNOWLEDGING = "acknowledging"  # nothing is left to do; the message is about to be acknowledged


def passing(point: FaultPoint) -> None:
    """Do nothing: the default hook for fault points."""
