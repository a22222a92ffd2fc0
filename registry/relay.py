"""The relay: sends the outbox's messages to the broker, again for jobs that nobody holds, and notifies webhooks.

It also ends overdue trainings that no worker holds, and deletes old messages and logged answers.

    python -m registry.relay

A message only wakes a worker; the job's row decides. So a message sent twice does no harm, and the relay may be killed
between sending and marking.
"""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerUnreachable
from sqlalchemy.orm import Session, sessionmaker
from tenacity.stop import stop_when_event_set

from registry.answers import keeping
from registry.audit.trust import signing_of
from registry.base import addresses, database, probes, retry
from registry.base.database import make_engine, make_sessions, schema_state
from registry.base.errors import InvalidRequest, NoSigningKey, SchemaMismatch
from registry.base.logging import configure_logging
from registry.base.retry import Result
from registry.base.settings import Settings
from registry.jobs import outbox
from registry.jobs import service as jobs
from registry.metrics.exposition import shown
from registry.metrics.queue import QueueCollector
from registry.metrics.relay import RelayMetrics
from registry.webhooks.courier import Courier

log = structlog.get_logger("melo.relay")

_AT_ONCE = 100
_KEPT = timedelta(days=1)  # for messages of finished jobs
_PRUNED_AT_ONCE = 5_000
_PRUNE_SECONDS = 60.0
UNREACHABLE = (*database.UNREACHABLE, BrokerUnreachable, OSError)


@dataclass(frozen=True)
class Message:
    """A message that wakes a worker, and its queue and priority in the broker."""

    topic: str
    job_id: int
    queue: str
    priority: int  # in the broker, where 0 is served first


Send = Callable[[Message], None]


@dataclass
class Relay:
    """The loop that sends messages.

    sessions, send: where messages are read from and sent to. stopping: set to end the loop.
    """

    sessions: sessionmaker[Session]
    send: Send
    resend_seconds: float
    poll_seconds: float
    stopping: threading.Event
    pruned_at: float = float("-inf")  # time.monotonic()
    metrics: RelayMetrics = field(default_factory=RelayMetrics.make)

    def run(self) -> None:
        """Run until `stopping` is set."""
        while not self.stopping.is_set():
            if not self.patiently(self.turn):
                self.pause(self.poll_seconds)

    def patiently(self, act: Callable[[], Result]) -> Result | None:
        """Call `act`, retrying with growing pauses while the database or the broker is unreachable.

        Returns None if told to stop meanwhile.
        """
        give_up = stop_when_event_set(self.stopping)
        try:
            return retry.patiently(
                act, unreachable=UNREACHABLE, pause=self.pause, give_up=give_up, away=self.metrics.away
            )
        except UNREACHABLE:  # and told to stop: unsent messages stay in the outbox
            return None

    def pause(self, seconds: float) -> None:
        self.stopping.wait(seconds)

    def turn(self) -> int:
        """Sweep and send once. Returns the number of messages sent."""
        with self.sessions.begin() as session:
            if ended := jobs.fail_overdue(session, _AT_ONCE):
                log.warning("nobody was at them at their deadline", jobs=ended)
                self.metrics.overdue(ended)
        with self.sessions.begin() as session:
            for job in outbox.forsaken(session, self.resend_seconds, _AT_ONCE):
                log.info("sent again", job=job.id, state=job.state, worker=job.worker)
                self.metrics.sent_again(job.state)
                outbox.wake_again(session, job.id)
        self.prune()
        with self.sessions.begin() as session:
            unsent = outbox.unsent(session, _AT_ONCE)
            for message in unsent:
                payload = message.payload
                self.send(Message(message.topic, message.job_id, payload["queue"], payload["priority"]))
                self.metrics.sent(1)
            if unsent:
                outbox.mark_sent(session, [message.id for message in unsent])
                log.info("sent", jobs=[message.job_id for message in unsent])
            return len(unsent)

    def prune(self) -> None:
        """Delete old messages once in a while (the sweep needs those of unfinished jobs), and old logged answers."""
        if time.monotonic() - self.pruned_at < _PRUNE_SECONDS:
            return
        with self.sessions.begin() as session:
            outbox.prune_messages(session, _KEPT, _PRUNED_AT_ONCE)
            if gone := keeping.prune(session, _PRUNED_AT_ONCE):
                log.info("old answers deleted", rows=gone)
        self.pruned_at = time.monotonic()


def make_send(redis_url: str) -> Send:
    """Create a function that sends through Celery by the task's name: the relay has none of the worker's code."""
    app = Celery("melo", broker=addresses.of_broker(redis_url), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        # The loop itself waits and retries, and can be stopped meanwhile.
        task_publish_retry=False,
        broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 10} | outbox.TRANSPORT,
    )

    def send(message: Message) -> None:
        app.send_task(message.topic, args=[message.job_id], queue=message.queue, priority=message.priority)

    return send


def main() -> None:
    configure_logging()
    settings = Settings()
    engine = make_engine(settings.database_url, settings.statement_timeout_seconds, pool_size=3)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    relay = Relay(
        make_sessions(engine, signing=signing_of(settings)),
        make_send(settings.redis_url),
        settings.resend_seconds,
        settings.relay_poll_seconds,
        stopping,
    )
    courier = Courier(
        relay.sessions,
        settings.webhook_allow_private,
        settings.relay_poll_seconds,
        stopping,
        count=relay.metrics.attempted,
    )
    relay.metrics.registry.register(QueueCollector(relay.sessions))

    def require_ready() -> None:
        probes.of_writable(settings.database_url)
        probes.of_relay(settings.database_url)
        probes.of_broker(settings.redis_url)

    try:
        with shown(settings, relay.metrics.registry, require_ready):
            relay.patiently(lambda: schema_state(engine).require_current())
            log.info("started")
            together(stopping, relay.run, courier.run)
    except (SchemaMismatch, InvalidRequest, NoSigningKey) as error:
        raise SystemExit(f"{error.title}. {error}") from None
    finally:
        engine.dispose()
        log.info("stopped")


def together(stopping: threading.Event, run: Callable[[], None], beside: Callable[[], None]) -> None:
    """Run both until `stopping` is set. A failure of either stops the other and is raised, for the supervisor."""
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
