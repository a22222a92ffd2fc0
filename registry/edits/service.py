"""Finding batches and edits, and what is shown of them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.collections import repository as collections
from registry.collections.models import Collection
from registry.edits import repository
from registry.edits.models import Batch
from registry.edits.schemas import ActiveEditView, BatchSummary, BatchView, EditView
from registry.errors import NotFound
from registry.jobs import repository as jobs
from registry.jobs import service as queue
from registry.jobs.schemas import JobView
from registry.vocabulary import BatchState


def get(session: Session, batch_id: int) -> Batch:
    """Raises NotFound."""
    batch = repository.batch(session, batch_id)
    if batch is None:
        raise _no_batch(batch_id)
    return batch


def lock(session: Session, batch_id: int) -> Batch:
    """The batch, kept from others until the transaction ends. Raises NotFound."""
    batch = repository.lock_batch(session, batch_id)
    if batch is None:
        raise _no_batch(batch_id)
    return batch


def view(session: Session, batch: Batch) -> BatchView:
    """A batch with its edits, its job, and what it waits for."""
    job = jobs.latest_of_batch(session, batch.id)
    waiting = (
        f"It waits for a decision: `melo batch approve {batch.id}` or `melo batch reject {batch.id}`."
        if batch.state == BatchState.SUBMITTED
        else queue.hint(session, job)
    )
    return BatchView(
        **BatchSummary.model_validate(batch).model_dump(),
        collection=collections.by_id(session, batch.collection_id).name,
        edits=[EditView.model_validate(edit) for edit in repository.of_batch(session, batch.id)],
        job=JobView.model_validate(job) if job else None,
        version=repository.version_of_batch(session, batch.id),
        hint=waiting,
    )


def batches(
    session: Session, collection: Collection, *, state: BatchState | None, before: int | None, limit: int
) -> Sequence[Batch]:
    return repository.batches(session, collection.id, state=state, before=before, limit=limit)


def edits_of(
    session: Session, collection: Collection, *, active: bool | None, after: int, limit: int
) -> list[ActiveEditView]:
    """Edits in the order of their ids, with the version that each is active from."""
    found = repository.with_activity(session, collection.id, active=active, after=after, limit=limit)
    return [ActiveEditView(**EditView.model_validate(edit).model_dump(), active_since=since) for edit, since in found]


def _no_batch(batch_id: int) -> NotFound:
    return NotFound(f"There is no batch {batch_id}.", "`melo batch list COLLECTION` shows those that exist.")
