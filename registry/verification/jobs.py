"""Verifying jobs: that each was asked for, ended as its events say, and stored and reported what they say."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import String, and_, func, or_, select
from sqlalchemy.orm import Session

from registry.audit.details import (
    BatchApprove,
    BatchCancel,
    BatchFail,
    BatchPreflight,
    BatchReject,
    BatchReturn,
    BatchSubmit,
    BatchTrain,
    Details,
    JobAttempt,
    VersionApply,
    key,
    read,
)
from registry.base.digests import report_digest, sha256_hex, work_digest
from registry.base.vocabulary import Action, JobKind, JobState
from registry.erasure.scrubbing import GONE
from registry.tables.audit import AuditEvent
from registry.tables.edits import Edit
from registry.tables.jobs import Job
from registry.tables.versions import Block, BlockEdit, Point
from registry.verification.verified import Verified
from registry.versions.repository import stored_by

_FEW = 100
_MANY = 2_000
_OF_JOBS = (
    Action.BATCH_SUBMIT, Action.BATCH_APPROVE, Action.BATCH_REJECT, Action.BATCH_CANCEL, Action.BATCH_PREFLIGHT,
    Action.BATCH_TRAIN, Action.BATCH_RETURN, Action.BATCH_FAIL, Action.VERSION_APPLY,
)  # fmt: skip
_WAITING = frozenset({JobState.QUEUED, JobState.RUNNING})


@dataclass
class _Told:
    """What the events say of a job."""

    batch: str  # its subject
    kind: JobKind
    work: str | None = None
    states: frozenset[JobState] = _WAITING  # in which it may be
    trained: str | None = None
    report: str | None = None


@dataclass
class _Account:
    """The jobs of the events read so far."""

    jobs: dict[int, _Told] = field(default_factory=dict)
    preflights: dict[str, int] = field(default_factory=dict)  # by batch

    def take(self, event: AuditEvent) -> None:
        subject, details = event.subject, read(Details, event)
        match details:
            case BatchSubmit(preflight=int(job), work=work):
                self.jobs[job], self.preflights[subject] = _Told(subject, JobKind.PREFLIGHT, work), job
            case BatchApprove(job=int(job), work=work):
                self.jobs[job] = _Told(subject, JobKind.TRAIN, work, frozenset({JobState.QUEUED}))
                self._decided(subject)
            case BatchReject():
                self._decided(subject)
            case BatchCancel(jobs=jobs):
                self._decided(subject)
                for job in jobs:
                    self._end(job, JobState.CANCELLED)
            case BatchPreflight(job=job, error=str()):
                self._end(job, JobState.FAILED)
            case BatchPreflight(job=job, trained=trained, report=report):
                self._end(job, JobState.SUCCEEDED, trained, report)
            case BatchTrain(job=job):
                self._end(job, JobState.RUNNING)
            case BatchReturn(job=job):
                self._end(job, JobState.QUEUED)
            case BatchFail(job=job):
                self._end(job, JobState.FAILED)
            case VersionApply(job=job, trained=trained, report=report):
                self._end(job, JobState.SUCCEEDED, trained, report)

    def _decided(self, subject: str) -> None:
        """A decision may end the batch's preflight, at once or when a worker comes to it."""
        told = self.jobs.get(self.preflights.get(subject, 0))
        if told and told.states == _WAITING:
            told.states = _WAITING | {JobState.CANCELLED}

    def _end(self, job: int, state: JobState, trained: str | None = None, report: str | None = None) -> None:
        if (told := self.jobs.get(job)) is not None:
            told.states, told.trained, told.report = frozenset({state}), trained, report


def verify_jobs(session: Session) -> Verified:
    """Verify that each job was asked for by an event, and is in the state in which its events left it."""
    account = _read(session)
    query = select(
        Job.id, Job.batch_id, Job.kind, Job.state, Job.seed, Job.settings, Job.collection_id, Job.report, Job.error,
        _erased(Job.collection_id).label("erased"),
    ).order_by(Job.id)  # fmt: skip
    found = set[int]()
    for row in session.execute(query.execution_options(yield_per=_FEW)):
        found.add(row.id)
        told = account.jobs.get(row.id)
        yield f"job {row.id}", list(_wrong_with(row, told)) if told else ["no event asked for it"]
    for job_id in sorted(account.jobs.keys() - found):
        yield f"job {job_id}", [f"it is gone, but an event of {account.jobs[job_id].batch} tells of it"]


def _read(session: Session) -> _Account:
    account = _Account()
    events = select(AuditEvent).where(AuditEvent.action.in_(_OF_JOBS)).order_by(AuditEvent.seq)
    for event in session.scalars(events.execution_options(yield_per=_MANY)):
        account.take(event)
        session.expunge(event)
    return account


def _wrong_with(row: Any, told: _Told) -> Iterator[str]:
    if (f"batch/{row.batch_id}", row.kind) != (told.batch, told.kind):
        yield f"by its event it is a {told.kind} of {told.batch}"
    if row.state not in told.states:
        yield f"it is {row.state}, but by its events it is {' or '.join(sorted(told.states))}"
    if told.work is not None and work_digest(row.seed, row.settings) != told.work:
        yield "its seed or its settings differ from the event that asked for it"
    scrubbed = row.erased and GONE in str(row.report)  # an erasure removes what it quoted
    if report_digest(row.report) != (told.report or report_digest(None)) and not scrubbed:
        yield "its report differs from its event"
    if row.state == JobState.SUCCEEDED and row.error is not None:
        yield "it succeeded, and has an error"


def verify_trained(session: Session) -> Verified:
    """Verify that each job stored the blocks and points of which its event tells, and that no others are there."""
    told = {job_id: job.trained for job_id, job in _read(session).jobs.items() if job.trained is not None}
    for job_id, digest in sorted(told.items()):
        same = stored_by(session, job_id) == digest
        wrong = "the blocks or points that it stored differ from its event: one was changed, added or removed"
        yield f"job {job_id}", [] if same else [wrong]
    for job_id in session.scalars(select(Block.job_id).distinct().order_by(Block.job_id)):
        if job_id not in told:
            yield f"job {job_id}", ["no event says that it stored blocks, but there are some"]
    yield from _elsewhere(session)
    of_none = select(BlockEdit.block_id).outerjoin(Block, Block.id == BlockEdit.block_id).where(Block.id.is_(None))
    for block_id in session.scalars(of_none):
        yield f"block {block_id}", ["it is gone, but an edit is said to have been trained into it"]


def _elsewhere(session: Session) -> Verified:
    """Yield blocks and points of another collection than their job's."""
    blocks = select(Block.id).join(Job, Job.id == Block.job_id).where(Job.collection_id != Block.collection_id)
    points = select(Point.id).join(Block, Block.id == Point.block_id).where(Point.collection_id != Block.collection_id)
    for name, query in (("block", blocks), ("point", points)):
        for row_id in session.scalars(query):
            yield f"{name} {row_id}", ["it is of another collection than the job that stored it"]


def verify_errors(session: Session) -> Verified:
    """Verify that every error in an event is in its job, word for word."""
    job_id = AuditEvent.details[key(JobAttempt.job)].astext
    error = AuditEvent.details[key(BatchFail.error)].astext
    failed_preflight = AuditEvent.details.has_key(key(BatchPreflight.error))
    row = and_(Job.id.cast(String) == job_id, func.concat("batch/", Job.batch_id) == AuditEvent.subject)
    query = (
        select(job_id.label("job"), error.label("told"), Job.error, _erased(Job.collection_id).label("erased"))
        .outerjoin(Job, row)
        .where(or_(AuditEvent.action == Action.BATCH_FAIL, failed_preflight))
        .order_by(AuditEvent.seq)
    )
    for event in session.execute(query.execution_options(yield_per=_FEW)):
        yield f"job {event.job}", [] if _is_told(event) else ["its error is gone, or differs from its event"]


def _erased(collection_id: Any) -> Any:
    """Select whether an edit of the collection was erased."""
    return select(Edit.id).where(Edit.collection_id == collection_id, Edit.erased_at.is_not(None)).exists()


def _is_told(event: Any) -> bool:
    if event.error is None:
        return False
    # An erasure removes what the error quoted.
    return sha256_hex(event.error.encode()) == event.told or (event.erased and GONE in event.error)
