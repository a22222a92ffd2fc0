"""/v1/collections/{collection}/batches and /edits, /v1/batches"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from sse_starlette import EventSourceResponse

from registry.api import following
from registry.api.attention import SubmitterDep
from registry.api.bodies import body_up_to
from registry.api.body_file import loaded
from registry.api.http import ActorDep, BatchId, CollectionDep, EditId, SessionDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById
from registry.api.submission_body import DOCUMENTED, SubmittedDep
from registry.base.vocabulary import BatchState, Role
from registry.base.wire import Id
from registry.batches import cancelling, deciding, retraining, service, submitting
from registry.batches.schemas import (
    BatchSummary,
    BatchView,
    Cancellation,
    Decision,
    Guarding,
    Rejection,
    Retraining,
    SubmissionView,
)
from registry.batches.training import Training
from registry.edits.schemas import ActiveEditView
from registry.tables.edits import Batch

router = APIRouter(prefix="/v1", tags=["edits"], route_class=RepeatableRoute)


@router.post(
    "/collections/{collection}/batches",
    status_code=201,
    dependencies=[needs(Role.EDITOR), body_up_to(None), Depends(loaded)],
    openapi_extra=DOCUMENTED,
)
def submit_edits(
    request: Request,
    submitted: SubmittedDep,
    attention: SubmitterDep,
    collection: CollectionDep,
    session: SessionDep,
    actor: ActorDep,
) -> SubmissionView:
    """Submit up to 100,000 corrections. If any are invalid, the answer lists the problems and nothing is stored."""
    options = submitted.options
    report = submitting.submit(
        session,
        collection,
        submitted.edits,
        actor,
        message=options.message,
        source=options.source,
        on_conflict=options.on_conflict,
        skip_invalid=options.skip_invalid,
        dry_run=options.dry_run,
        training=Training(options.priority, options.deadline, options.training, options.edits_per_block),
        attend=attention.require,
        most_tokens=request.app.state.settings.submission_tokens,
    )
    return SubmissionView(
        batch=service.view(session, report.batch) if report.batch else None,
        accepted=report.accepted,
        skipped=[problem.as_json() for problem in report.skipped],
        skipped_count=report.skipped_count,
        sync=service.sync_view(report.plan) if report.plan else None,
        notes=list(report.notes),
    )


@router.get("/collections/{collection}/batches", response_model=list[BatchSummary], dependencies=[needs(Role.VIEWER)])
def list_batches(
    collection: CollectionDep,
    session: SessionDep,
    page: ById,
    state: BatchState | None = None,
) -> list[Batch]:
    """List batches, newest first."""
    found = service.batches(session, collection, state=state, before=page.key, limit=page.rows)
    return page.cut(found, lambda batch: batch.id)


@router.get("/batches/{batch_id}", dependencies=[needs(Role.VIEWER)])
def show_batch(batch_id: BatchId, session: SessionDep) -> BatchView:
    """A batch, its edits and approvals, what its preflight found, its training's progress, and what it waits for."""
    return service.view(session, service.get(session, batch_id))


@router.get(
    "/batches/{batch_id}/events",
    dependencies=[needs(Role.VIEWER), Depends(following.one_more)],
    response_class=EventSourceResponse,
    responses={200: {"content": {following.EVENTS: following.SHOWN}, "description": "a BatchProgress with each event"}},
)
def follow_batch(batch_id: BatchId, request: Request, session: SessionDep) -> EventSourceResponse:
    """Follow a batch by server-sent events: `progress` when something changes, and `end` once the batch is over."""
    service.get(session, batch_id)
    events = following.events(request.app.state.sessions, batch_id)
    return EventSourceResponse(events, ping=following.PING_SECONDS, send_timeout=following.SEND_SECONDS)


@router.post("/batches/{batch_id}/approve", dependencies=[needs(Role.APPROVER)])
def approve_batch(batch_id: BatchId, decision: Decision, session: SessionDep, actor: ActorDep) -> BatchView:
    """Approve a batch, or all of it but the edits in `except`. The last approval needed queues its training."""
    return service.view(session, deciding.approve(session, batch_id, actor, decision.reason, decision.declined))


@router.post("/batches/{batch_id}/reject", dependencies=[needs(Role.EDITOR)])
def reject_batch(batch_id: BatchId, rejection: Rejection, session: SessionDep, actor: ActorDep) -> BatchView:
    """Reject a batch permanently."""
    return service.view(session, deciding.reject(session, batch_id, actor, rejection.reason))


@router.post("/batches/{batch_id}/cancel", dependencies=[needs(Role.EDITOR)])
def cancel_batch(batch_id: BatchId, cancellation: Cancellation, session: SessionDep, actor: ActorDep) -> BatchView:
    """Stop an approved batch before it is applied, even during training. It may be approved again."""
    return service.view(session, cancelling.cancel(session, batch_id, actor, cancellation.reason))


@router.post("/edits/{edit_id}/retrain", status_code=201, dependencies=[needs(Role.EDITOR)])
def retrain_edit(edit_id: EditId, wanted: Retraining, session: SessionDep, actor: ActorDep) -> BatchView:
    """Submit an active edit again, with other training settings, as a batch that replaces it once applied."""
    training = Training(wanted.priority, changes=wanted.training)
    return service.view(session, retraining.retrain(session, edit_id, training, actor, wanted.reason))


@router.post("/edits/{edit_id}/guards", status_code=201, dependencies=[needs(Role.EDITOR)])
def guard_edit(edit_id: EditId, wanted: Guarding, session: SessionDep, actor: ActorDep) -> BatchView:
    """Submit an active edit again, with more guards (prompts that it leaves to the base model).

    The new batch replaces the edit once applied. Nothing is trained.
    """
    return service.view(session, retraining.guard(session, edit_id, wanted.prompts, actor, wanted.reason))


@router.get("/collections/{collection}/edits", dependencies=[needs(Role.VIEWER)])
def list_edits(
    collection: CollectionDep,
    session: SessionDep,
    page: ById,
    active: bool | None = None,
    batch: Annotated[Id | None, Query(description="only those of this batch")] = None,
) -> list[ActiveEditView]:
    """List edits by id; `active` selects only those active in the newest version, or only the others."""
    found = service.edits_of(session, collection, batch_id=batch, active=active, after=page.key or 0, limit=page.rows)
    return page.cut(found, lambda edit: edit.id)
