"""/v1/collections/{collection}/batches and /edits, /v1/batches"""

from typing import Annotated

from fastapi import APIRouter, Query

from registry.edits import deciding, service, submitting
from registry.edits.models import Batch
from registry.edits.schemas import (
    ActiveEditView,
    BatchSummary,
    BatchView,
    Decision,
    Rejection,
    Submission,
    SubmissionView,
)
from registry.http import ActorDep, BatchId, Before, CollectionDep, Limit, SessionDep
from registry.vocabulary import BatchState

router = APIRouter(prefix="/v1", tags=["edits"])


@router.post("/collections/{collection}/batches", status_code=201)
def submit_edits(
    submission: Submission, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> SubmissionView:
    """Submit corrections. All problems come back at once; then nothing is stored."""
    report = submitting.submit(
        session,
        collection,
        submission.edits,
        actor,
        message=submission.message,
        source=submission.source,
        on_conflict=submission.on_conflict,
        skip_invalid=submission.skip_invalid,
        dry_run=submission.dry_run,
    )
    return SubmissionView(
        batch=service.view(session, report.batch) if report.batch else None,
        accepted=report.accepted,
        skipped=[problem.as_json() for problem in report.skipped],
    )


@router.get("/collections/{collection}/batches", response_model=list[BatchSummary])
def list_batches(
    collection: CollectionDep,
    session: SessionDep,
    state: BatchState | None = None,
    before: Before = None,
    limit: Limit = 100,
) -> list[Batch]:
    """Newest first."""
    return list(service.batches(session, collection, state=state, before=before, limit=limit))


@router.get("/batches/{batch_id}")
def show_batch(batch_id: BatchId, session: SessionDep) -> BatchView:
    """A batch, its edits, its job's progress, and what it waits for."""
    return service.view(session, service.get(session, batch_id))


@router.post("/batches/{batch_id}/approve")
def approve_batch(batch_id: BatchId, decision: Decision, session: SessionDep, actor: ActorDep) -> BatchView:
    """Have a batch trained and applied."""
    return service.view(session, deciding.approve(session, batch_id, actor, decision.reason))


@router.post("/batches/{batch_id}/reject")
def reject_batch(batch_id: BatchId, rejection: Rejection, session: SessionDep, actor: ActorDep) -> BatchView:
    """Decide against a batch, for good."""
    return service.view(session, deciding.reject(session, batch_id, actor, rejection.reason))


@router.get("/collections/{collection}/edits")
def list_edits(
    collection: CollectionDep,
    session: SessionDep,
    active: bool | None = None,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    limit: Limit = 1000,
) -> list[ActiveEditView]:
    """In the order of their ids; `active` leaves only those that act in the newest version, or only the others."""
    return service.edits_of(session, collection, active=active, after=after, limit=limit)
