"""/v1/answers, /v1/feedback, /v1/collections/{collection}/answers, /usage and /feedback"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime

from registry.answers import keeping, service
from registry.answers.schemas import (
    AnswerView,
    EditUsage,
    ExplainedResponse,
    KeptAnswers,
    NewAnswers,
    ResponseId,
    UsageView,
)
from registry.api.bodies import body_up_to
from registry.api.http import (
    ActorDep,
    CallerDep,
    CollectionDep,
    FeedbackId,
    GuardedRoute,
    SessionDep,
    needs,
)
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById
from registry.base.vocabulary import Role
from registry.base.wire import Id
from registry.feedback import service as feedback
from registry.feedback.schemas import Draft, FeedbackView, GivenView, NewFeedback

router = APIRouter(prefix="/v1", tags=["answers"], route_class=RepeatableRoute)
log_router = APIRouter(prefix="/v1", tags=["answers"], route_class=GuardedRoute)  # logging an answer twice logs it once

MOST_BYTES = 16 << 20  # of as many answers as one request may hold, each with as long texts as are kept


@router.get("/answers/{response_id}", dependencies=[needs(Role.VIEWER, anywhere=True)])
def explain_response(
    response_id: Annotated[ResponseId, Path()], session: SessionDep, caller: CallerDep
) -> ExplainedResponse:
    """Explain a logged response: for each of its choices, the edit that answered, or why none did."""
    return service.explain(session, response_id, caller)


@log_router.post("/answers", dependencies=[needs(Role.EDITOR, anywhere=True), body_up_to(MOST_BYTES)])
def log_answers(given: NewAnswers, session: SessionDep, caller: CallerDep) -> KeptAnswers:
    """Log answers of a server that does not reach the database, as the policies of the caller's collections say."""
    return keeping.receive(session, caller, given)


@router.get("/collections/{collection}/answers", dependencies=[needs(Role.VIEWER)])
def list_answers(
    collection: CollectionDep,
    session: SessionDep,
    caller: CallerDep,
    page: ById,
    edit: Annotated[Id | None, Query(description="only those that this edit gave")] = None,
    since: Annotated[AwareDatetime | None, Query(description="only those from this time on")] = None,
) -> list[AnswerView]:
    """List logged answers, newest first. A viewer sees those to their own questions."""
    found = service.page(session, collection, caller, edit_id=edit, since=since, before=page.key, limit=page.rows)
    return [view for _, view in page.cut(found, lambda each: each[0])]


@router.get("/collections/{collection}/usage", dependencies=[needs(Role.VIEWER)])
def show_usage(collection: CollectionDep, session: SessionDep) -> UsageView:
    """Count the logged answers, and those that edits gave."""
    return service.usage(session, collection)


@router.get("/collections/{collection}/usage/edits", dependencies=[needs(Role.VIEWER)])
def list_usage(
    collection: CollectionDep, session: SessionDep, page: ById, active: bool | None = None
) -> list[EditUsage]:
    """Count the logged answers that each edit gave, by the edits' ids; an edit that never answered has 0."""
    found = service.usage_by_edit(session, collection, active=active, after=page.key or 0, limit=page.rows)
    return page.cut(found, lambda each: each.edit_id)


@router.post("/feedback", status_code=201, dependencies=[needs(Role.VIEWER, anywhere=True)])
def give_feedback(given: NewFeedback, request: Request, session: SessionDep, caller: CallerDep) -> GivenView:
    """Say that an answer was right, or wrong. A correction by an editor becomes a batch that waits for approval."""
    return feedback.give(session, given, caller, request.state.request_id)


@router.get("/collections/{collection}/feedback", dependencies=[needs(Role.VIEWER)])
def list_feedback(
    collection: CollectionDep,
    session: SessionDep,
    caller: CallerDep,
    page: ById,
    open: Annotated[bool, Query(description="only thumbs down without a draft")] = False,
) -> list[FeedbackView]:
    """List feedback, newest first. A viewer sees their own."""
    found = feedback.page(session, collection, caller, open_=open, before=page.key, limit=page.rows)
    return page.cut(found, lambda each: each.id)


@router.post("/feedback/{feedback_id}/draft", status_code=201, dependencies=[needs(Role.EDITOR)])
def draft_feedback(feedback_id: FeedbackId, wanted: Draft, session: SessionDep, actor: ActorDep) -> FeedbackView:
    """Submit a correction made of feedback, as a batch that waits for approval."""
    return feedback.draft(session, feedback_id, wanted, actor)
