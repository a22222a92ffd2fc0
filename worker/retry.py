"""Retries while the database is away: recognising that, and trying again until it is back."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from registry.base.database import UNREACHABLE
from worker.stopping import Stop

log = structlog.get_logger()

STOP_TRIES_SECONDS = 1.0  # for which a worker that must stop still tries to reach the database
Result = TypeVar("Result")


def patiently(stop: Stop, act: Callable[[], Result], seconds: float | None = None) -> Result:
    """Call `act`, retrying at growing intervals while the database is away, for `seconds` or until told to stop."""

    def give_up(state: RetryCallState) -> bool:
        most = STOP_TRIES_SECONDS if stop.asked else seconds
        return most is not None and (state.seconds_since_start or 0) >= most

    retrying = Retrying(
        retry=retry_if_exception_type(UNREACHABLE),
        wait=wait_exponential_jitter(multiplier=0.2, max=15),
        stop=give_up,
        sleep=stop.pause,
        before_sleep=_log_pause,
        reraise=True,
    )
    return retrying(act)


def first_line(error: BaseException) -> str:
    """Return an error's first line; of a database error its message without the statement."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _log_pause(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0
    log.warning("the database is away", error=error and first_line(error), again_in_seconds=round(pause, 1))
