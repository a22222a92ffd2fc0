"""Being told to stop: what a worker may still do, and until when."""

import time

STEP_SECONDS = 0.2


class Stopped(Exception):
    """The worker was told to stop: the job goes back to the queue."""


class Stop:
    """Asked once: nothing new is begun, and the job in work has some seconds to finish. Asked again: no more time.

    Plain attributes and no lock: a signal's handler asks, and what it interrupts may hold any lock.
    """

    def __init__(self, seconds: float = 15) -> None:
        """seconds: how long the job in work may go on."""
        self._seconds = seconds
        self._until: float | None = None  # time.monotonic()

    def ask(self) -> None:
        self._until = time.monotonic() + (self._seconds if self._until is None else 0)

    @property
    def asked(self) -> bool:
        return self._until is not None

    def is_due(self, grace_seconds: float = 0) -> bool:
        """Whether the time is over, by so many seconds."""
        return self._until is not None and time.monotonic() >= self._until + grace_seconds

    def pause(self, seconds: float) -> None:
        """Sleep, but not once told to stop."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, STEP_SECONDS))
