"""Client methods for queues, jobs, and batches in training."""

from registry.base.vocabulary import JobKind, JobState, QueueState
from registry.batches.schemas import BatchProgress
from registry.client.calls import call, stream
from registry.client.exchanges import Exchange, Lines, at, many, one
from registry.collections.schemas import CollectionView
from registry.jobs.schemas import JobRecord, JobSummary, QueueView


class Training:
    """Training methods of both clients."""

    @stream
    def follow(self, batch_id: int) -> Lines[BatchProgress]:
        """Follow a batch: yield its progress at each change, until it is applied, rejected, cancelled or failed."""
        path = f"/v1/batches/{batch_id}/events"
        return Lines(path, BatchProgress.model_validate_json, events=True, goes_on=_is_not_over)

    @call
    def jobs(
        self,
        *,
        collection: str | None = None,
        state: JobState | str | None = None,
        kind: JobKind | str | None = None,
        limit: int | None = 100,
    ) -> Exchange[list[JobSummary]]:
        """List jobs, newest first."""
        query = {"state": state and str(state), "kind": kind and str(kind)}
        return many(JobSummary, "/v1/jobs", limit, collection=collection, **query)

    @call
    def job(self, job_id: int) -> Exchange[JobRecord]:
        return one(JobRecord, "GET", f"/v1/jobs/{job_id}")

    @call
    def queue(self, collection: str) -> Exchange[QueueView]:
        """Return what is running and what is waiting, in the order of processing."""
        return one(QueueView, "GET", at(collection, "queue"))

    @call
    def set_queue(self, collection: str, state: QueueState | str, reason: str) -> Exchange[CollectionView]:
        """Set the state of a collection's queue.

        paused: nothing is started; draining: what is queued is finished, nothing new is accepted; open: as usual.
        """
        return one(CollectionView, "POST", at(collection, "queue"), json={"state": str(state), "reason": reason})


def _is_not_over(last: BatchProgress | None) -> bool:
    return last is None or not last.state.is_over
