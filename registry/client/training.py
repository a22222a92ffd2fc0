"""The queue of each collection, its jobs, and batches as they are trained."""

from registry.base.vocabulary import JobKind, JobState, QueueState
from registry.batches.schemas import BatchProgress
from registry.client.calls import call, stream
from registry.client.exchanges import Exchange, Lines, at, many, one
from registry.collections.schemas import CollectionView
from registry.jobs.schemas import JobRecord, JobSummary, QueueView


class Training:
    """Part of both clients."""

    @stream
    def follow(self, batch_id: int) -> Lines[BatchProgress]:
        """How far a batch is, whenever that changes, until it is applied, rejected, cancelled or has failed."""
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
        """Newest first."""
        query = {"state": state and str(state), "kind": kind and str(kind)}
        return many(JobSummary, "/v1/jobs", limit, collection=collection, **query)

    @call
    def job(self, job_id: int) -> Exchange[JobRecord]:
        return one(JobRecord, "GET", f"/v1/jobs/{job_id}")

    @call
    def queue(self, collection: str) -> Exchange[QueueView]:
        """What runs and what waits, in the order in which it is begun."""
        return one(QueueView, "GET", at(collection, "queue"))

    @call
    def set_queue(self, collection: str, state: QueueState | str, reason: str) -> Exchange[CollectionView]:
        """paused: nothing is begun; draining: what is queued is finished, nothing new is taken in; open: as usual."""
        return one(CollectionView, "POST", at(collection, "queue"), json={"state": str(state), "reason": reason})


def _is_not_over(last: BatchProgress | None) -> bool:
    return last is None or not last.state.is_over
