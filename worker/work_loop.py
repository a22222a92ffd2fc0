"""The thread that works: woken by messages, and periodically by itself, so that a lost message delays no job."""

import threading
import time
from collections.abc import Callable

import structlog

from worker.stopping import Stop

log = structlog.get_logger()

LOOK_SECONDS = 60.0
LEAVE_SECONDS = 1.5  # past its time to stop, after which nobody waits for the thread any longer
POLL_SECONDS = 0.25
AFTER_AN_ERROR_SECONDS = 5.0


class WorkLoop(threading.Thread):
    """The thread that does all the work. The main thread thus hears a signal at any moment, even while a model is being
    loaded, and work goes on while the broker is away.
    """

    def __init__(self, work: Callable[[], object], stop: Stop) -> None:
        """Make the thread without starting it. work: does all waiting work. stop: when to end."""
        super().__init__(name="work", daemon=True)
        self._work, self._stop_asked = work, stop
        self._changed = threading.Condition()
        self._wanted, self._done = 1, 0  # rounds; the first is at the start
        self._closed = False

    def wake(self) -> int:
        """Make the thread look for work soon. Returns the number of the round that will."""
        with self._changed:
            self._wanted += 1
            self._changed.notify_all()
            return self._wanted

    def wake_and_wait(self) -> None:
        """Return when no work is left, or when the time to stop is over."""
        wanted = self.wake()
        while self.is_alive() and not self._stop_asked.is_due(LEAVE_SECONDS):
            with self._changed:
                # In short waits: a signal may have set the stop meanwhile.
                if self._changed.wait_for(lambda: self._done >= wanted, POLL_SECONDS):
                    return

    def close(self) -> bool:
        """End the thread after the current job, if time allows. Returns whether it has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while self.is_alive() and not self._stop_asked.is_due(LEAVE_SECONDS):
            self.join(POLL_SECONDS)
        return not self.is_alive()

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted > self._done, LOOK_SECONDS)
                if self._closed or self._stop_asked.asked:
                    return
                wanted = self._wanted
            try:
                self._work()
            except Exception:  # a defect must not leave an idle process
                log.exception("unexpected")
                time.sleep(AFTER_AN_ERROR_SECONDS)
            with self._changed:
                self._done = wanted
                self._changed.notify_all()
