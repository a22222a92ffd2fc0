"""/v1/workers"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import AwareDatetime

from registry.http import SessionDep, needs
from registry.jobs import service
from registry.jobs.schemas import WorkerView
from registry.pages import Page, pages
from registry.vocabulary import Role
from registry.wire import Text

router = APIRouter(prefix="/v1/workers", tags=["jobs"])

BySign = Annotated[Page[tuple[datetime, str]], pages(tuple[AwareDatetime, Text])]


@router.get("", dependencies=[needs(Role.VIEWER, anywhere=True)])
def list_workers(session: SessionDep, page: BySign) -> list[WorkerView]:
    """Every worker that was seen, newest sign of life first."""
    found = service.workers(session, before=page.key, limit=page.rows)
    return page.cut(found, lambda worker: (worker.seen_at, worker.worker))
