"""The relay: sends the outbox's messages to the broker, sends again for jobs that nobody holds, and tells webhooks.

    python -m registry.relay

A message only wakes a worker; the job's row decides. So a message sent twice does no harm, and the relay may be
killed between sending and marking.
"""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerAway
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter
from tenacity.stop import stop_when_event_set

from registry.database import make_engine, make_sessions, schema_state
from registry.errors import SchemaMismatch
from registry.jobs import repository
from registry.jobs.service import TRAIN
from registry.request_log import configure_logging
from registry.settings import Settings
from registry.webhooks.courier import Courier

log = structlog.get_logger("melo.relay")

_AT_ONCE = 100
# InternalError: the server is read-only for a while, after a failover. TimeoutError: of the pool of connections.
AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout, BrokerAway, OSError)
Result = TypeVar("Result")
Send = Callable[[str, int], None]  # topic and job id


@dataclass
class Relay:
    """sessions, send: where messages are read and where they go. stopping: set to end the loop."""

    sessions: sessionmaker[Session]
    send: Send
    resend_seconds: float
    poll_seconds: float
    stopping: threading.Event

    def run(self) -> None:
        """Until `stopping` is set."""
        while not self.stopping.is_set():
            if not self.patiently(self.turn):
                self.pause(self.poll_seconds)

    def patiently(self, act: Callable[[], Result]) -> Result | None:
        """Do it, waiting ever longer while the database or the broker is away. None: told to stop meanwhile."""
        retrying = Retrying(
            retry=retry_if_exception_type(AWAY),
            wait=wait_exponential_jitter(initial=0.5, max=15),
            stop=stop_when_event_set(self.stopping),
            sleep=self.pause,
            before_sleep=_log_pause,
            retry_error_callback=_give_up,
        )
        return retrying(act)

    def pause(self, seconds: float) -> None:
        self.stopping.wait(seconds)

    def turn(self) -> int:
        """Sweep and send once. Returns the number of messages sent."""
        with self.sessions.begin() as session:
            for job in repository.forsaken(session, self.resend_seconds, _AT_ONCE):
                log.info("sent again", job=job.id, state=job.state, worker=job.worker)
                repository.add_message(session, TRAIN, job.id)
        with self.sessions.begin() as session:
            messages = repository.unsent(session, _AT_ONCE)
            for message in messages:
                self.send(message.topic, message.job_id)
            if messages:
                repository.mark_sent(session, [message.id for message in messages])
                log.info("sent", jobs=[message.job_id for message in messages])
            return len(messages)


def _log_pause(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0
    log.warning("away", error=str(error).splitlines()[:1], again_in_seconds=round(pause, 1))


def _give_up(state: RetryCallState) -> None:
    """Told to stop while something was away: what was not sent stays in the outbox."""


def make_send(redis_url: str) -> Send:
    """Send through Celery, by the task's name: the relay has none of the worker's code."""
    app = Celery("melo", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        # The loop waits and tries again itself, and can be stopped meanwhile.
        task_publish_retry=False,
        broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 10},
    )

    def send(topic: str, job_id: int) -> None:
        app.send_task(topic, args=[job_id])

    return send


def main() -> None:
    configure_logging()
    settings = Settings()
    engine = make_engine(settings.database_url, settings.statement_timeout_seconds, pool_size=3)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    relay = Relay(
        make_sessions(engine),
        make_send(settings.redis_url),
        settings.resend_seconds,
        settings.relay_poll_seconds,
        stopping,
    )
    try:
        relay.patiently(lambda: schema_state(engine).require_current())
    except SchemaMismatch as error:
        raise SystemExit(f"{error.title}. {error}") from None
    courier = Courier(relay.sessions, settings.webhook_allow_private, settings.relay_poll_seconds, stopping)
    log.info("started")
    try:
        together(stopping, relay.run, courier.run)
    finally:
        engine.dispose()
        log.info("stopped")


def together(stopping: threading.Event, run: Callable[[], None], beside: Callable[[], None]) -> None:
    """Run both until `stopping` is set. A failure of either stops the other and is raised, for a supervisor to see."""
    with ThreadPoolExecutor(1, "beside") as threads:
        other = threads.submit(beside)
        other.add_done_callback(lambda _: stopping.set())
        try:
            run()
        finally:
            stopping.set()
        other.result()


if __name__ == "__main__":
    main()
