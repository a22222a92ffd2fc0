"""Retries while the database is away, until the worker has to stop."""

from collections.abc import Callable

from tenacity import RetryCallState

from registry.base import retry
from registry.base.database import UNREACHABLE
from registry.base.retry import Result
from worker.stopping import Stop

STOP_TRIES_SECONDS = 1.0  # for which a worker that must stop still tries to reach the database


def patiently(stop: Stop, act: Callable[[], Result], seconds: float | None = None) -> Result:
    """Call `act`, retrying at growing intervals while the database is away, for `seconds` or until told to stop."""

    def give_up(state: RetryCallState) -> bool:
        most = STOP_TRIES_SECONDS if stop.asked else seconds
        return most is not None and (state.seconds_since_start or 0) >= most

    return retry.patiently(act, unreachable=UNREACHABLE, pause=stop.pause, give_up=give_up)
