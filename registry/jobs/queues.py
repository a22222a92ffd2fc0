"""Where the broker keeps a job's message: by base model, so that a worker keeps its model loaded, and by priority."""

from registry.base.vocabulary import Priority

# Of the Redis transport, for relay and workers alike: each queue is one list for each of these steps, and the lists of
# the first step are emptied before those of the next. Whoever sends and whoever takes must name the same ones.
TRANSPORT = {"priority_steps": [0, 3, 6, 9], "queue_order_strategy": "priority"}

_RANKS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}


def queue_of(model_digest: str) -> str:
    """The queue of all collections over the base model with this digest."""
    return f"melo.{model_digest[:16]}"


def rank_of(priority: Priority) -> int:
    """The message's priority in Redis, where 0 is served first."""
    return _RANKS[priority]
