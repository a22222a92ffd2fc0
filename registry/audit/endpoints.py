"""/v1/audit"""

from typing import Annotated

from fastapi import APIRouter, Query

from registry.audit import service, verification
from registry.audit.models import AuditEvent
from registry.audit.schemas import EventView, VerificationView
from registry.collections import service as collections
from registry.http import Before, Limit, SessionDep
from registry.wire import Name

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", response_model=list[EventView])
def list_events(
    session: SessionDep,
    collection: Annotated[Name | None, Query()] = None,
    subject: Annotated[str | None, Query(max_length=300, pattern=r"^[^\x00]*$", examples=["batch/3"])] = None,
    before: Before = None,
    limit: Limit = 100,
) -> list[AuditEvent]:
    """Newest first."""
    collection_id = collections.get(session, collection).id if collection else None
    return list(service.log(session, collection_id=collection_id, subject=subject, before=before, limit=limit))


@router.get("/verify")
def verify_record(session: SessionDep) -> VerificationView:
    """Recompute every digest and the chain of events."""
    return verification.verify(session)
