"""The worker's use of Celery: the queues it listens to, its signal handlers, and its actions once connected."""

import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.exceptions import WorkerShutdown
from celery.worker import state

from registry.base.errors import InvalidRequest
from worker.stopping import Stop

log = structlog.get_logger()

REFUSED = 1


def listen_to_signals(stop: Stop) -> None:
    def told(*_: object) -> None:
        stop.ask()
        state.should_stop = 0  # read by Celery between two messages; its value is the exit status

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, told)


class Consumed:
    """The queues that the worker listens to. More may be added while it runs."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self._consumer: Any = None  # Celery's, once it is connected

    def add(self, name: str) -> None:
        """Add a queue. May be called from any thread."""
        if name in self.names:
            return
        self.names.add(name)
        if self._consumer is not None:
            self._consumer.call_soon(self._listen, name)

    def listen_all(self, consumer: Any) -> None:
        """Listen to all queues. Called from Celery's own thread each time that it connects."""
        self._consumer = consumer
        for name in sorted(self.names):
            self._listen(name)

    def _listen(self, name: str) -> None:
        if self._consumer.task_consumer is not None:
            self._consumer.add_task_queue(name)


def consume(app: Celery, consumed: Consumed, stop: Stop, connected: Callable[[], None]) -> int:
    """Take messages until told to stop. Returns the exit status.

    connected: called each time that the broker is reached; an InvalidRequest raised by it ends the worker.
    """

    class Signals(bootsteps.StartStopStep):  # type: ignore[misc]
        """Replaces Celery's handlers: its warm shutdown has no time limit, and its soft one always waits for the whole
        time, even if the job is finished.
        """

        def start(self, _: Any) -> None:
            listen_to_signals(stop)

    class Connected(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            try:
                connected()
            except InvalidRequest as error:
                log.error("refused", reason=str(error))
                raise WorkerShutdown(REFUSED) from None
            consumed.listen_all(consumer)

    app.steps["worker"].add(Signals)
    app.steps["consumer"].add(Connected)
    worker = app.Worker(
        hostname=f"melo-{os.getpid()}@{socket.gethostname()}",
        pool_cls="solo",  # CUDA does not survive a fork
        concurrency=1,
        loglevel="WARNING",
        quiet=True,
        # They serve to monitor other workers; the record does that.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return worker.exitcode or 0
