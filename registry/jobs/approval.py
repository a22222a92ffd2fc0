"""Whether a training was decided on: by signed events, so that whoever owns the database alone cannot have it done.

The database's guards ask for approvals as rows, and rows can be written by its owner. Where a key is known, a worker
trains and applies only what the events of the batch say, each signed by a process that has the key.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from registry.audit import repository as audit
from registry.audit.details import BatchApprove, BatchSubmit, read
from registry.audit.trust import of, unverified
from registry.base.digests import edit_digest, edits_digest, record_digest, work_digest
from registry.base.errors import Unverified
from registry.base.vocabulary import Action
from registry.edits import repository as edits
from registry.tables.audit import AuditEvent
from registry.tables.edits import Batch, Edit
from registry.tables.jobs import Job

_ENDING = (Action.BATCH_REJECT, Action.BATCH_CANCEL, Action.BATCH_FAIL)
_ASKED = (Action.BATCH_SUBMIT, Action.BATCH_APPROVE, *_ENDING)


def require_approved(session: Session, batch: Batch, job: Job) -> None:
    """Raise Unverified where a key is known and the batch's events do not bear out that the job is to be done."""
    wrong = wrong_with(session, batch, job)
    if wrong is not None:
        raise Unverified(
            f"Batch {batch.id} is not trained: {wrong}.",
            "Somebody wrote into the database past the registry, or a program has another signing key: "
            "`melo audit verify` names it. Reject the batch, and submit its edits again.",
        )


def wrong_with(session: Session, batch: Batch, job: Job) -> str | None:
    """Return the first thing that the events do not bear out, or None; None also where no key is known."""
    if of(session).trust is None:
        return None
    events = audit.of_subject(session, f"batch/{batch.id}", _ASKED)
    return next(_differences(session, batch, job, events), None)


def _differences(session: Session, batch: Batch, job: Job, events: Sequence[AuditEvent]) -> Iterator[str]:
    yield from unverified(session, events)
    submissions = [(event, read(BatchSubmit, event)) for event in events if event.action == Action.BATCH_SUBMIT]
    approvals = [(event, read(BatchApprove, event)) for event in events if event.action == Action.BATCH_APPROVE]
    if len(submissions) != 1:
        yield f"{len(submissions)} events tell of its submission"
        return
    yield from _otherwise_submitted(session, batch, *submissions[0])
    deciding = [event for event in events if event.action in _ENDING or _job_of(event) is not None]
    decided = read(BatchApprove, deciding[-1]) if deciding else None
    if decided is None or decided.job != job.id:
        yield f"no event says that it was approved for job {job.id}"
        return
    given = {event.actor for event, _ in approvals}
    if missing := sorted(set(decided.approvals) - given):
        yield f"no event tells of the approval by {', '.join(missing)}"
    if len(set(decided.approvals)) < decided.approvals_needed:
        yield f"it has {len(set(decided.approvals))} of {decided.approvals_needed} approvals"
    told = {edit_id for _, details in approvals for edit_id in (details.declined if details else ())}
    if told != edits.declined(session, [batch.id]):
        yield "the edits left out of it differ from the events of its approvals"
    if decided.work != work_digest(job.seed, job.settings):
        yield "the seed or the settings of its job differ from the event of its approval"


def _job_of(event: AuditEvent) -> int | None:
    details = read(BatchApprove, event)
    return details.job if details else None


def _otherwise_submitted(
    session: Session, batch: Batch, event: AuditEvent, details: BatchSubmit | None
) -> Iterator[str]:
    found = edits.of_batch(session, batch.id)
    if details is None or (event.after, details.records) != (
        edits_digest(edit.digest for edit in found),
        edits.records_of(session, batch.id),
    ):
        yield "its edits differ from the event of its submission"
    for edit in found:
        if content_of(edit) != edit.digest or record_of(edit) != edit.record_digest:
            yield f"edit {edit.id} was changed since it was submitted"


def content_of(edit: Edit) -> str:
    """Return the digest of an edit's content as it is now."""
    return edit_digest(
        prompt=edit.prompt,
        target=edit.target,
        alternatives=edit.alternatives,
        rephrases=edit.rephrases,
        unchanged=edit.unchanged,
        kind=edit.kind,
    )


def record_of(edit: Edit) -> str:
    """Return the digest of what is said of an edit now."""
    return record_digest(
        position=edit.position,
        author=edit.author,
        reason=edit.reason,
        source=edit.source,
        replaces=edit.replaces,
        prompt_key=edit.prompt_key,
        digest=edit.digest,
    )
