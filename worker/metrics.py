"""A worker's Prometheus metrics. Each process has its own registry."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram

from registry.base.vocabulary import JobKind
from registry.metrics.exposition import new_registry

# From a stage of a single edit to a whole night.
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
JOBS = (1, 2, 3, 5, 10, 20, 50, 100)


class Outcome(StrEnum):
    """The end of a worker's hold of a job."""

    APPLIED = "applied"  # a version was made
    REPORTED = "reported"  # a preflight's report was written
    FAILED = "failed"  # ended, with its error recorded
    RETRIED = "retried"  # failed with a cause that may pass: back in the queue, for later
    GIVEN_BACK = "given_back"  # the worker was told to stop: back in the queue
    LOST = "lost"  # the lease expired while the worker worked; the result was discarded
    CANCELLED = "cancelled"  # somebody cancelled it while the worker worked


@dataclass(frozen=True)
class WorkerMetrics:
    """The metrics of a worker. Its methods may be called from several threads at once."""

    registry: CollectorRegistry
    _ended: Counter
    _waited: Histogram
    _together: Histogram
    _stages: Histogram
    _trained: Counter
    _loads: Histogram

    @classmethod
    def make(cls) -> Self:
        registry = new_registry()
        metrics = cls(
            registry=registry,
            _ended=Counter(
                "melo_worker_jobs_ended_total",
                "Jobs that this worker held, by how its hold ended",
                ["kind", "outcome"],
                registry=registry,
            ),
            _waited=Histogram(
                "melo_worker_job_wait_seconds",
                "From when a job was queued to when this worker claimed it",
                ["kind"],
                registry=registry,
                buckets=SECONDS,
            ),
            _together=Histogram(
                "melo_worker_group_jobs", "Trainings that were done in one go", registry=registry, buckets=JOBS
            ),
            _stages=Histogram(
                "melo_worker_stage_seconds",
                "How long a stage of a job took",
                ["kind", "stage"],
                registry=registry,
                buckets=SECONDS,
            ),
            _trained=Counter(
                "melo_worker_edits_trained_total", "Edits whose blocks were trained", ["kind"], registry=registry
            ),
            _loads=Histogram(
                "melo_worker_model_load_seconds",
                "How long loading a base model took",
                registry=registry,
                buckets=SECONDS,
            ),
        )
        # Start at zero, so that the first of each shows as an increase.
        for kind in JobKind:
            metrics._trained.labels(kind)
            metrics._waited.labels(kind)
            for outcome in Outcome:
                metrics._ended.labels(kind, outcome)
        return metrics

    def claimed(self, kind: str, waited_seconds: float) -> None:
        self._waited.labels(kind).observe(max(0.0, waited_seconds))

    def ended(self, kind: str, outcome: Outcome) -> None:
        self._ended.labels(kind, outcome).inc()

    def stage(self, kind: str, name: str, seconds: float) -> None:
        """A stage is over: load, train, scope, index, evaluate, finish …"""
        self._stages.labels(kind, name).observe(seconds)

    def trained(self, kind: str, edits: int, jobs: int = 1) -> None:
        """Record blocks trained in one go, with the number of edits and of jobs they belong to."""
        self._trained.labels(kind).inc(edits)
        if kind == JobKind.TRAIN:  # preflights are never trained together
            self._together.observe(jobs)

    def loaded(self, seconds: float) -> None:
        """Record that a base model was loaded into memory."""
        self._loads.observe(seconds)
