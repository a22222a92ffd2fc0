"""Retries while a service is away, and restarts of a process that died."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from registry.base.errors import first_line

log = structlog.get_logger()

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0  # before a process that died is started again
STEADY_SECONDS = 60.0  # after running this long, a process's earlier deaths no longer count

Result = TypeVar("Result")


def patiently(
    act: Callable[[], Result],
    *,
    unreachable: tuple[type[Exception], ...],
    pause: Callable[[float], None],
    give_up: Callable[[RetryCallState], bool],
    away: Callable[[], None] = lambda: None,
) -> Result:
    """Call `act`, retrying at growing intervals while it raises one of `unreachable`, until `give_up`, which raises it.

    pause: sleeps for some seconds. away: called for each failure.
    """

    def tell(state: RetryCallState) -> None:
        away()
        error = state.outcome and state.outcome.exception()
        seconds = state.next_action.sleep if state.next_action else 0
        log.warning("away", error=error and first_line(error), again_in_seconds=round(seconds, 1))

    return Retrying(
        retry=retry_if_exception_type(unreachable),
        wait=wait_exponential_jitter(multiplier=0.2, max=15),
        stop=give_up,
        sleep=pause,
        before_sleep=tell,
        reraise=True,
    )(act)


@dataclass
class Restarts:
    """When a process that died is started again: each time in a row after a pause twice as long."""

    deaths: int = 0  # in a row
    due: float = 0.0  # time.monotonic()

    def died(self, started: float) -> bool:
        """Note the end of the process that was started at this time. Returns whether it had run steadily."""
        now = time.monotonic()
        steady = now - started > STEADY_SECONDS
        self.deaths = 1 if steady else self.deaths + 1
        self.due = now + min(FIRST_PAUSE_SECONDS * 2 ** (self.deaths - 1), LONGEST_PAUSE_SECONDS)
        return steady
