"""The broker's queue and priority for a job's message: by base model, so that a worker keeps its model loaded."""

from registry.base.vocabulary import Priority

# Options of the Redis transport, for relay and workers: each queue has one list per step, and the lists of the first
# step are emptied before those of the next. Senders and receivers must use the same steps.
TRANSPORT = {"priority_steps": [0, 3, 6, 9], "queue_order_strategy": "priority"}

_RANKS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}


def queue_of(model_digest: str) -> str:
    """Return the queue of all collections over the base model with this digest."""
    return f"melo.{model_digest[:16]}"


def rank_of(priority: Priority) -> int:
    """Return the message's priority in Redis, where 0 is served first."""
    return _RANKS[priority]
