"""The places that a worker passes on its way through a job, by name: where it may die, and be watched."""

from enum import StrEnum


class FaultPoint(StrEnum):
    """In the order of a job's life. A preflight passes those that it has a part in."""

    WOKEN = "woken"  # about to look for work; nothing is claimed
    CLAIMING = "claiming"  # in the claim's transaction, which is not committed
    CLAIMED = "claimed"  # the claim is committed; nothing is done
    LOADED = "loaded"  # model and encoder are in memory
    TRAINING = "training"  # the first step is done
    TRAINED = "trained"  # the blocks are there, in memory
    SCOPED = "scoped"  # the keys are there, too
    INDEXED = "indexed"  # the index that the version would have is built
    EVALUATED = "evaluated"  # what must arrive and what must not change was asked
    FINISHING = "finishing"  # in the finishing transaction, in which nothing is written
    REPORTED = "reported"  # in it, the report is written
    WRITTEN = "written"  # in it, blocks, points, version, audit and job state are written, and not committed
    FINISHED = "finished"  # it is committed
    FAILING = "failing"  # in the transaction that records a failure, for good or until later; not committed
    FAILED = "failed"  # it is committed
    GIVING_BACK = "giving_back"  # in the transaction that puts the job back in the queue; not committed
    ACKNOWLEDGING = "acknowledging"  # nothing is left to do; the message is about to be acknowledged


def passing(point: FaultPoint) -> None:
    """What a worker does at a point, unless somebody watches: nothing."""
