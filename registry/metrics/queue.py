"""Metrics on waiting jobs and on workers, queried from the record at each scrape."""

import threading
import time
from collections.abc import Iterable, Sequence
from itertools import product

import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from registry.base.errors import first_line
from registry.base.vocabulary import JobKind, JobState, Priority, QueueState
from registry.metrics import repository

log = structlog.get_logger("melo.metrics")

KEPT_SECONDS = 5.0  # so that many scrapers cost the database no more than one does
LONGEST_STATEMENT_SECONDS = 3.0  # Prometheus gives up after ten
_STATES = (JobState.QUEUED, JobState.RUNNING)


class QueueCollector(Collector):
    """Gauges of the whole registry, the same in every process that shows them."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()
        self._found: Sequence[Metric] = ()
        self._until = 0.0

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering the collector does not query the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._ask()
                self._until = time.monotonic() + KEPT_SECONDS
            return self._found

    def _ask(self) -> Sequence[Metric]:
        """Return the gauges or, while the database is unreachable, only that fact: old numbers would look current."""
        try:
            with self._sessions() as session:
                return [_up(1), *_gauges(session)]
        except SQLAlchemyError as error:
            log.warning("the database does not answer", error=first_line(error))
            return [_up(0)]


def _up(value: int) -> Metric:
    return GaugeMetricFamily("melo_database_up", "Whether the database answers", value=value)


def _gauges(session: Session) -> Iterable[Metric]:
    repository.limit_statements(session, LONGEST_STATEMENT_SECONDS)
    queues = repository.queue_states(session)
    live = repository.live_jobs(session)
    # Also report 0 at the usual priority: a series that ends could not be distinguished from one at 0.
    counts: dict[tuple[str, ...], int] = {
        (*of, Priority.NORMAL, state): 0 for of in product(queues, JobKind) for state in _STATES
    }
    counts |= {(each.collection, each.kind, each.priority, each.state): each.count for each in live}
    oldest = dict.fromkeys(queues, 0.0)
    for each in live:
        if each.state == JobState.QUEUED:
            oldest[each.collection] = max(oldest.get(each.collection, 0.0), each.seconds)
    yield _family(
        "melo_queue_jobs", "Jobs that wait or run", ("collection", "kind", "priority", "state"), counts.items()
    )
    yield _family(
        "melo_queue_oldest_seconds",
        "How long ago the oldest job that still waits was queued; 0: none waits",
        ("collection",),
        (((name,), seconds) for name, seconds in oldest.items()),
    )
    yield _family(
        "melo_queue_state",
        "1 for what a collection's queue does: open, paused or draining",
        ("collection", "state"),
        (((name, state), int(state == now)) for (name, now), state in product(queues.items(), QueueState)),
    )
    unsent = repository.unsent(session)
    yield GaugeMetricFamily("melo_outbox_messages", "Messages still to be sent to the broker", value=unsent.count)
    yield GaugeMetricFamily(
        "melo_outbox_oldest_seconds", "How long the oldest of them has waited; 0: none waits", value=unsent.seconds
    )
    yield GaugeMetricFamily(
        "melo_workers_alive", "Workers with a recent sign of life", value=repository.workers_alive(session)
    )


def _family(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family
