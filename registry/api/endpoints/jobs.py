"""/v1/jobs and /v1/workers"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from registry.api.http import GuardedRoute, JobId, SessionDep, VisibleDep, needs
from registry.api.pages import ById, Page, pages
from registry.base.vocabulary import JobKind, JobState, Role
from registry.base.wire import Name, Text
from registry.collections import service as collections
from registry.jobs import listing, service
from registry.jobs.schemas import JobRecord, JobSummary, WorkerView

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=GuardedRoute)

BySign = Annotated[Page[tuple[datetime, str]], pages(tuple[AwareDatetime, Text])]


@router.get("/jobs", dependencies=[needs(Role.VIEWER, anywhere=True)])
def list_jobs(
    session: SessionDep,
    visible: VisibleDep,
    page: ById,
    collection: Annotated[Name | None, Query()] = None,
    state: JobState | None = None,
    kind: JobKind | None = None,
) -> list[JobSummary]:
    """Preflights and trainings in the collections that the caller may see, newest first."""
    among = visible if collection is None else collections.among(session, collection, visible)
    found = listing.jobs(session, among=among, state=state, kind=kind, before=page.key, limit=page.rows)
    return page.cut(found, lambda job: job.id)


@router.get("/jobs/{job_id}", dependencies=[needs(Role.VIEWER)])
def show_job(job_id: JobId, session: SessionDep) -> JobRecord:
    """Show the record of a job: settings, seed, libraries, device, timings, loss curve, peak memory, error."""
    return listing.record(session, job_id)


@router.get("/workers", dependencies=[needs(Role.VIEWER, anywhere=True)])
def list_workers(session: SessionDep, page: BySign) -> list[WorkerView]:
    """List every worker that was ever seen, most recent heartbeat first."""
    found = service.workers(session, before=page.key, limit=page.rows)
    return page.cut(found, lambda worker: (worker.seen_at, worker.worker))
