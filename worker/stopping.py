"""Stopping: the time that a worker has left once it is told to stop."""

import time

STEP_SECONDS = 0.2


class Stopped(Exception):
    """The worker was told to stop: the job goes back to the queue."""


class Stop:
    """A request to stop. Once: no new work begins, and the current job has some seconds left. Twice: it has none.

    Plain attributes and no lock: a signal handler asks, and the code that it interrupts may hold any lock.
    """

    def __init__(self, seconds: float = 15) -> None:
        """Make a request that is not asked yet. seconds: how long the current job may continue."""
        self._seconds = seconds
        self._until: float | None = None  # time.monotonic()

    def ask(self) -> None:
        self._until = time.monotonic() + (self._seconds if self._until is None else 0)

    @property
    def asked(self) -> bool:
        return self._until is not None

    def is_due(self, grace_seconds: float = 0) -> bool:
        """Tell whether the time has been over for at least `grace_seconds`."""
        return self._until is not None and time.monotonic() >= self._until + grace_seconds

    def pause(self, seconds: float) -> None:
        """Sleep, but not once told to stop."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, STEP_SECONDS))
