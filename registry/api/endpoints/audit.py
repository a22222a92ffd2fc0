"""/v1/audit"""

from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from registry.api.attention import ReaderDep
from registry.api.following import changes_after
from registry.api.http import CallerDep, SessionDep, VisibleDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById
from registry.audit import checkpoint, export, service, witness
from registry.audit.schemas import (
    ChangesView,
    Checkpoint,
    Comparison,
    ComparisonView,
    EventView,
    LogEntry,
    PublicKeyView,
    VerificationView,
)
from registry.audit.signing import signing_key
from registry.base.vocabulary import Role
from registry.base.wire import Name
from registry.collections import service as collections
from registry.tables.audit import AuditEvent
from registry.verification import service as verification

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=RepeatableRoute)
LINES = "application/x-ndjson"
STEPS = {"schema": {"type": "string"}, "example": '{"verifying": "events", "verified": 1000}\n'}
EVENTS = {"schema": {"type": "string"}, "example": '{"seq": 1, "action": "registry:collection:create", …}\n'}


@router.get("", response_model=list[EventView], dependencies=[needs(Role.VIEWER, query="collection")])
def list_events(
    session: SessionDep,
    page: ById,
    collection: Annotated[Name | None, Query()] = None,
    subject: Annotated[str | None, Query(max_length=300, pattern=r"^[^\x00]*$", examples=["batch/3"])] = None,
) -> list[AuditEvent]:
    """List what was done, by whom, when and why, newest first."""
    collection_id = collections.get(session, collection).id if collection else None
    found = service.log(session, collection_id=collection_id, subject=subject, before=page.key, limit=page.rows)
    return page.cut(found, lambda event: event.seq)


@router.get("/changes", dependencies=[needs(Role.VIEWER, anywhere=True)])
async def await_changes(
    request: Request,
    visible: VisibleDep,
    after: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="the seq of the last answer; none: now")] = None,
    wait: Annotated[float, Query(ge=0, le=30, description="seconds to wait for a change; 0: answer at once")] = 0,
) -> ChangesView:
    """Tell in which collections something changed (an alias, an erasure, …): at once, or when it does."""
    return await changes_after(request.app.state.engine, after, wait, visible)


@router.get("/verify", dependencies=[needs(Role.VIEWER)])
def verify_record(session: SessionDep, caller: CallerDep, attention: ReaderDep) -> VerificationView:
    """Recompute every digest and the chain of events. A caller may have one verification at a time."""
    return verification.verify(session, caller.owner, attention.require)


@router.get(
    "/verify/stream",
    dependencies=[needs(Role.VIEWER)],
    response_class=StreamingResponse,
    responses={200: {"content": {LINES: STEPS}, "description": "ProgressView lines, the last a VerificationView"}},
)
def verify_record_in_steps(request: Request, caller: CallerDep) -> StreamingResponse:
    """Verify the record, which may take minutes, and stream progress: one JSON object per line, the result last.

    A caller may have one verification at a time.
    """
    request.app.state.schema.require_current()

    def lines() -> Iterator[str]:
        with request.app.state.sessions() as session:
            for step in verification.verify_in_steps(session, caller.owner):
                yield step.model_dump_json() + "\n"

    found = lines()
    first = next(found)  # what is refused is refused before the answer begins
    return StreamingResponse(chain([first], found), media_type=LINES)


@router.get(
    "/export",
    dependencies=[needs(Role.VIEWER)],
    response_class=StreamingResponse,
    responses={200: {"content": {LINES: EVENTS}, "description": "an event a line, in the form that its hash covers"}},
)
def export_events(
    request: Request,
    since: Annotated[int, Query(ge=0, le=2**63 - 1, description="the seq after which the file begins")] = 0,
) -> StreamingResponse:
    """Export every event as JSONL, oldest first. The file can be verified without a database."""
    request.app.state.schema.require_current()

    def lines() -> Iterator[bytes]:
        with request.app.state.sessions() as session:
            yield from export.lines(session, since)

    return StreamingResponse(lines(), media_type=LINES)


@router.post("/checkpoint", status_code=201, dependencies=[needs(Role.APPROVER)])
def sign_checkpoint(request: Request, session: SessionDep) -> Checkpoint:
    """Sign the head of the chain. Keep the answer elsewhere; nothing is stored, and no event is written."""
    return checkpoint.make(session, signing_key(request.app.state.settings))


@router.post("/checkpoint/log-entry", dependencies=[needs(Role.APPROVER)])
def state_checkpoint(request: Request, signed: Checkpoint) -> LogEntry:
    """Sign a statement about a checkpoint of this registry, for a transparency log to publish. Nothing is stored."""
    return witness.log_entry(signing_key(request.app.state.settings), signed)


@router.post("/checkpoint/compare", dependencies=[needs(Role.VIEWER)])
def compare_with_checkpoint(comparison: Comparison, session: SessionDep) -> ComparisonView:
    """Compare the record with a signed checkpoint: tell whether it was truncated or rewritten since."""
    findings = [
        *checkpoint.unsigned(comparison.checkpoint, comparison.public_key),
        *checkpoint.compare(session, comparison.checkpoint),
    ]
    return ComparisonView(ok=not findings, findings=findings)


@router.get("/public-key", dependencies=[needs(Role.VIEWER)])
def show_public_key(request: Request, session: SessionDep) -> PublicKeyView:
    """The key that checkpoints are verified with. Take it once, by a way that you trust."""
    return checkpoint.identity(session, signing_key(request.app.state.settings))
