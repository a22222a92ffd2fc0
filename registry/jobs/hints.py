"""What a job waits for, in words."""

from sqlalchemy.orm import Session

from registry.jobs import repository
from registry.jobs.models import Job
from registry.jobs.service import ALIVE_SECONDS
from registry.vocabulary import JobKind, JobState


def hint(session: Session, job: Job | None) -> str:
    """What a batch's check or training waits for, in words; empty where it waits for nothing."""
    if job is None or job.state not in (JobState.QUEUED, JobState.RUNNING):
        return ""
    what = "check" if job.kind == JobKind.CHECK else "job"
    if not repository.any_worker(session, ALIVE_SECONDS):
        return f"No worker is running: the {what} waits. Start one with `melo up` or `melo worker`."
    if job.state == JobState.RUNNING:
        return "" if job.kind == JobKind.TRAIN else "A worker is checking it."
    if job.kind == JobKind.TRAIN and repository.is_checked_now(session, job.batch_id):
        return "The job waits for the batch's check to end, and takes over what that trains."
    ahead = repository.queued_ahead(session, job)
    return f"The {what} waits for a worker; {ahead} are before it." if ahead else f"The {what} waits for a worker."
