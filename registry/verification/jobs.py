"""Verifying what jobs say went wrong, whose texts the events hold by their digests alone."""

from typing import Any

from sqlalchemy import String, and_, func, or_, select
from sqlalchemy.orm import Session

from registry.audit.details import BatchFail, BatchPreflight, JobAttempt, key
from registry.base.digests import sha256_hex
from registry.base.vocabulary import Action
from registry.erasure.scrubbing import GONE
from registry.tables.audit import AuditEvent
from registry.tables.edits import Edit
from registry.tables.jobs import Job
from registry.verification.verified import Verified

_FEW = 100


def verify_errors(session: Session) -> Verified:
    """Verify that every error in an event is in its job, word for word."""
    job_id = AuditEvent.details[key(JobAttempt.job)].astext
    error = AuditEvent.details[key(BatchFail.error)].astext
    failed_preflight = AuditEvent.details.has_key(key(BatchPreflight.error))
    row = and_(Job.id.cast(String) == job_id, func.concat("batch/", Job.batch_id) == AuditEvent.subject)
    erased = select(Edit.id).where(Edit.collection_id == Job.collection_id, Edit.erased_at.is_not(None)).exists()
    query = (
        select(job_id.label("job"), error.label("told"), Job.error, erased.label("erased"))
        .outerjoin(Job, row)
        .where(or_(AuditEvent.action == Action.BATCH_FAIL, failed_preflight))
        .order_by(AuditEvent.seq)
    )
    for event in session.execute(query.execution_options(yield_per=_FEW)):
        yield f"job {event.job}", [] if _is_told(event) else ["its error is gone, or differs from its event"]


def _is_told(event: Any) -> bool:
    if event.error is None:
        return False
    # An erasure removes what the error quoted.
    return sha256_hex(event.error.encode()) == event.told or (event.erased and GONE in event.error)
