"""Verifying what jobs say went wrong, whose texts the events hold by their digests alone."""

from typing import Any

from sqlalchemy import BigInteger, and_, cast, func, select
from sqlalchemy.orm import Session

from registry.base.digests import sha256_hex
from registry.erasure.scrubbing import GONE
from registry.tables.audit import AuditEvent
from registry.tables.edits import Edit
from registry.tables.jobs import Job
from registry.verification.verified import Verified

_FEW = 100


def verify_errors(session: Session) -> Verified:
    """Verify that every error in an event is in its job, word for word."""
    job_id = AuditEvent.details["job"].astext
    row = and_(Job.id == cast(job_id, BigInteger), func.concat("batch/", Job.batch_id) == AuditEvent.subject)
    erased = select(Edit.id).where(Edit.collection_id == Job.collection_id, Edit.erased_at.is_not(None)).exists()
    query = (
        select(job_id.label("job"), AuditEvent.details["error"].astext.label("told"), Job.error, erased.label("erased"))
        .outerjoin(Job, row)
        .where(AuditEvent.details.has_key("job"), AuditEvent.details.has_key("error"))
        .order_by(AuditEvent.seq)
    )
    for event in session.execute(query.execution_options(yield_per=_FEW)):
        yield f"job {event.job}", [] if _is_told(event) else ["its error is gone, or differs from its event"]


def _is_told(event: Any) -> bool:
    if event.error is None:
        return False
    # An erasure removes what the error quoted.
    return sha256_hex(event.error.encode()) == event.told or (event.erased and GONE in event.error)
