"""/v1/workers"""

from fastapi import APIRouter

from registry.http import SessionDep
from registry.jobs import service
from registry.jobs.schemas import WorkerView

router = APIRouter(prefix="/v1/workers", tags=["jobs"])


@router.get("")
def list_workers(session: SessionDep) -> list[WorkerView]:
    """Every worker that was seen, newest sign of life first."""
    return service.workers(session)
