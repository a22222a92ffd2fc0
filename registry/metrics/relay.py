"""The metrics of the relay."""

from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry, Counter

from registry.base.vocabulary import JobState
from registry.metrics.exposition import new_registry


@dataclass(frozen=True)
class RelayMetrics:
    """Counters that the relay and its courier update."""

    registry: CollectorRegistry
    _sent: Counter
    _sent_again: Counter
    _overdue: Counter
    _away: Counter
    _attempts: Counter

    @classmethod
    def make(cls) -> Self:
        registry = new_registry()
        metrics = cls(
            registry,
            _sent=Counter("melo_relay_messages_sent_total", "Messages given to the broker", registry=registry),
            _sent_again=Counter(
                "melo_relay_jobs_sent_again_total",
                "Jobs that were sent again: their worker's lease ran out, or none claimed them in time",
                ["reason"],
                registry=registry,
            ),
            _overdue=Counter(
                "melo_relay_jobs_overdue_total", "Trainings ended since their deadline came first", registry=registry
            ),
            _away=Counter(
                "melo_relay_failures_total", "Times that the broker or the database was away", registry=registry
            ),
            _attempts=Counter(
                "melo_relay_webhook_attempts_total",
                "Messages sent to webhooks, and what came of it",
                ["outcome"],
                registry=registry,
            ),
        )
        # Start at 0, so that the first of each shows up as an increase.
        for reason in ("lease", "unclaimed"):
            metrics._sent_again.labels(reason)
        for outcome in ("delivered", "failed", "retried"):
            metrics._attempts.labels(outcome)
        return metrics

    def sent(self, messages: int) -> None:
        self._sent.inc(messages)

    def sent_again(self, state: str) -> None:
        """Count a job whose message was sent again.

        state: the state in which the job was found.
        """
        self._sent_again.labels("lease" if state == JobState.RUNNING else "unclaimed").inc()

    def overdue(self, jobs: int) -> None:
        self._overdue.inc(jobs)

    def away(self) -> None:
        self._away.inc()

    def attempted(self, outcome: str) -> None:
        """Count a message to a webhook: delivered, failed for good, or to be retried."""
        self._attempts.labels(outcome).inc()
