"""Finds batches and edits, and builds their views."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.base.errors import NotFound
from registry.base.vocabulary import BatchState, JobKind
from registry.batches import reviewing
from registry.batches.schemas import (
    MOST_PROBLEMS,
    SHOWN_EDITS,
    BatchProgress,
    BatchSummary,
    BatchView,
    Replacement,
    SyncView,
)
from registry.batches.syncing import SyncPlan
from registry.collections import repository as collections
from registry.edits import repository
from registry.edits.schemas import ActiveEditView, ApprovalView, EditView
from registry.jobs import repository as jobs
from registry.jobs.listing import waits_for
from registry.jobs.schemas import JobView, PreflightView, Progress
from registry.tables.collections import Collection
from registry.tables.edits import Batch
from registry.tables.jobs import Job


def get(session: Session, batch_id: int) -> Batch:
    """Return the batch. Raises NotFound."""
    batch = repository.batch(session, batch_id)
    if batch is None:
        raise _no_batch(batch_id)
    return batch


def lock(session: Session, batch_id: int) -> Batch:
    """Return the batch, locked until the transaction ends. Raises NotFound."""
    batch = repository.lock_batch(session, batch_id)
    if batch is None:
        raise _no_batch(batch_id)
    return batch


def view(session: Session, batch: Batch) -> BatchView:
    """A batch with its edits, its approvals, its preflight, its job, and what it waits for."""
    collection = collections.by_id(session, batch.collection_id)
    approvals = [ApprovalView.model_validate(approval) for approval in repository.approvals(session, batch.id)]
    counted, needed = _approvals(session, collection, batch)
    preflight = jobs.latest_of_batch(session, batch.id, JobKind.PREFLIGHT)
    job = jobs.latest_of_batch(session, batch.id, JobKind.TRAIN)
    edits = repository.of_batch(session, batch.id, SHOWN_EDITS)
    preflight_view = PreflightView.model_validate(preflight) if preflight else None
    report = (preflight_view and preflight_view.report) or []
    replacements, replacement_count = reviewing.replacements(session, batch, report)
    return BatchView(
        **BatchSummary.model_validate(batch).model_dump(),
        collection=collection.name,
        edits=[EditView.model_validate(edit) for edit in edits],
        replacements=replacements,
        replacement_count=replacement_count,
        warnings=reviewing.warnings(session, batch, report),
        policy_changes=reviewing.policy_changes(session, batch),
        approvals=approvals,
        approvals_counted=counted,
        approvals_needed=needed,
        declined=sorted({edit_id for approval in approvals for edit_id in approval.declined}),
        preflight=preflight_view,
        job=JobView.model_validate(job) if job else None,
        version=repository.version_of_batch(session, batch.id),
        waits_for=_waits_for(session, batch, counted, needed, preflight, job),
    )


def sync_view(plan: SyncPlan) -> SyncView:
    """Return what a list changes."""
    changed = [(record, edit) for record in plan.records if (edit := plan.replaced.get(record.position))]
    return SyncView(
        added=len(plan.records) - len(changed),
        replaced=len(changed),
        unchanged=plan.unchanged,
        replacements=[
            Replacement(line=record.line, edit=edit.id, prompt=record.prompt, target=record.target, before=edit.target)
            for record, edit in changed[:MOST_PROBLEMS]
        ],
        missing=plan.missing,
    )


def progress(session: Session, batch_id: int) -> BatchProgress:
    """Return the progress of a batch, without its edits and reports. Raises NotFound."""
    batch = get(session, batch_id)
    collection = collections.by_id(session, batch.collection_id)
    counted, needed = _approvals(session, collection, batch)
    preflight = jobs.latest_of_batch(session, batch.id, JobKind.PREFLIGHT)
    training = jobs.latest_of_batch(session, batch.id, JobKind.TRAIN)
    job = training or preflight
    return BatchProgress(
        id=batch.id,
        collection=collection.name,
        state=BatchState(batch.state),
        waits_for=_waits_for(session, batch, counted, needed, preflight, training),
        kind=JobKind(job.kind) if job else None,
        job=job.id if job else None,
        attempt=job.attempt if job else None,
        progress=Progress.model_validate(job.progress) if job and job.progress else None,
        error=job.error if job else None,
        version=repository.version_of_batch(session, batch.id),
    )


def may_approve(collection: Collection, batch: Batch, name: str) -> bool:
    """Return whether the policy counts this person's approval of the batch."""
    return (not collection.approvers or name in collection.approvers) and (
        collection.self_approval or name != batch.submitted_by
    )


def _approvals(session: Session, collection: Collection, batch: Batch) -> tuple[int, int]:
    """Return how many approvals count and how many are needed, by the policy now or when the batch was approved."""
    given = repository.approvals(session, batch.id)
    if batch.approvals_needed is not None:
        return len(given), batch.approvals_needed
    return sum(may_approve(collection, batch, each.actor) for each in given), collection.approvals_needed


def _waits_for(
    session: Session, batch: Batch, approvals: int, needed: int, preflight: Job | None, job: Job | None
) -> str:
    if batch.state != BatchState.SUBMITTED:
        return waits_for(session, job)
    return (
        f"It waits for a decision ({approvals} of {needed} approvals): `melo batch approve {batch.id}` or "
        f"`melo batch reject {batch.id} --reason …`. {waits_for(session, preflight)}".strip()
    )


def batches(
    session: Session, collection: Collection, *, state: BatchState | None, before: int | None, limit: int
) -> Sequence[Batch]:
    return repository.batches(session, collection.id, state=state, before=before, limit=limit)


def edits_of(
    session: Session,
    collection: Collection,
    *,
    batch_id: int | None = None,
    active: bool | None,
    after: int,
    limit: int,
) -> list[ActiveEditView]:
    """Return edits in the order of their ids, with the version from which each is active."""
    found = repository.with_activity(session, collection.id, batch_id=batch_id, active=active, after=after, limit=limit)
    return [ActiveEditView(**EditView.model_validate(edit).model_dump(), active_since=since) for edit, since in found]


def _no_batch(batch_id: int) -> NotFound:
    return NotFound(f"There is no batch {batch_id}.", "`melo batch list COLLECTION` shows those that exist.")
