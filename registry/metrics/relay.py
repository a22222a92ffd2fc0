"""What the relay counts."""

from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry, Counter

from registry.base.vocabulary import JobState
from registry.metrics.exposition import new_registry


@dataclass(frozen=True)
class RelayMetrics:
    """Told by the relay and its courier what happened."""

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
        # From nothing, so that the first of each can be seen as an increase.
        for reason in ("lease", "unclaimed"):
            metrics._sent_again.labels(reason)
        for outcome in ("delivered", "failed", "retried"):
            metrics._attempts.labels(outcome)
        return metrics

    def sent(self, messages: int) -> None:
        self._sent.inc(messages)

    def sent_again(self, state: str) -> None:
        """state: of the job, as it was found."""
        self._sent_again.labels("lease" if state == JobState.RUNNING else "unclaimed").inc()

    def overdue(self, jobs: int) -> None:
        self._overdue.inc(jobs)

    def away(self) -> None:
        self._away.inc()

    def attempted(self, outcome: str) -> None:
        """A message went to a webhook: delivered, failed for good, or to be retried."""
        self._attempts.labels(outcome).inc()
