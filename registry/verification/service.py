"""Recomputing the whole record: the chain of events, and every digest that it holds to account.

Each verification walks one kind of record as a stream, so memory stays the same whatever the size, and yields every
record with what is wrong about it.
"""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from registry.audit import repository
from registry.audit.chain import exported_fields, follow
from registry.audit.details import CollectionCalibrate, CollectionCreate, read
from registry.audit.schemas import FindingView, ProgressView, VerificationView
from registry.audit.trust import of, signatures_in_words
from registry.base.digests import (
    MemberContent,
    cluster_digest,
    files_digest,
    float32_bytes,
    prompt_key,
    received_vector,
    sha256_hex,
)
from registry.base.errors import TooManyRequests
from registry.base.vocabulary import Action
from registry.collections.service import foundation_digest
from registry.jobs.approval import content_of, record_of
from registry.tables.audit import AuditEvent
from registry.tables.collections import Calibration, Collection
from registry.tables.edits import Batch, Edit
from registry.tables.orm import in_parts, listed
from registry.tables.versions import Activation, Block, Cluster, Point
from registry.verification.access import verify_keys, verify_protections
from registry.verification.decisions import verify_aliases, verify_approvals, verify_batches, verify_told
from registry.verification.erasures import verify_erasures
from registry.verification.guards import verify_guards
from registry.verification.jobs import verify_errors, verify_jobs, verify_trained
from registry.verification.policies import verify_given, verify_needed, verify_policies, verify_queues
from registry.verification.verified import Verified, is_just_before
from registry.verification.versions import verify_versions
from registry.verification.webhooks import verify_webhooks
from registry.versions.repository import sent

_FEW = 100  # rows at a time, if a row holds a block's bytes or a cluster's members
_MANY = 2_000
_PAUSE = 0.5  # seconds between two reports of progress
_LOCKS = 702637  # the class of the advisory locks: an arbitrary constant of this program
_AGAIN = 10  # seconds
_LONGEST_LIST = 1_000  # findings reported; beyond that, more of them say nothing new


def verify(
    session: Session, asked_by: str | None = None, attend: Callable[[], None] = lambda: None
) -> VerificationView:
    """Verify everything, against one snapshot, or in the transaction that the session's connection has begun.

    asked_by: as for verify_in_steps. attend: called after each step; raises to stop.
    """
    for step in verify_in_steps(session, asked_by):
        attend()
        if isinstance(step, VerificationView):
            return step
    raise AssertionError("a verification ends with its result")


def verify_in_steps(session: Session, asked_by: str | None = None) -> Iterator[ProgressView | VerificationView]:
    """Verify the record and report progress about twice a second; the result comes last.

    asked_by: who may have only one verification at a time. Raises TooManyRequests while another of theirs runs.
    """
    bound = session.get_bind()
    if not (isinstance(bound, Connection) and bound.in_transaction()):
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    if asked_by is not None and not _is_alone(session, asked_by):
        raise TooManyRequests("A verification that you asked for is running, in this or another process.", _AGAIN)
    verified: dict[str, int] = {}
    findings: list[FindingView] = []
    for name, verification in VERIFICATIONS.items():
        verified[name] = 0
        told = monotonic()
        yield ProgressView(verifying=name, verified=0)
        try:
            with session.begin_nested():
                for subject, wrong in verification(session):
                    verified[name] += 1
                    findings += [FindingView(subject=subject, detail=detail) for detail in wrong]
                    if monotonic() - told > _PAUSE:
                        told = monotonic()
                        yield ProgressView(verifying=name, verified=verified[name])
        except OperationalError:
            raise  # the database is unreachable or too slow
        except (SQLAlchemyError, ValueError, TypeError, LookupError, AttributeError) as error:
            # A forger may write what no verification expects: that must not keep the others from being made.
            broken = f"after {verified[name]} of them, one cannot be read: {type(error).__name__}"
            findings.append(FindingView(subject=name, detail=broken))
    tip, unsigned = repository.tip(session), repository.unsigned_count(session)
    yield VerificationView(
        ok=not findings,
        verified=verified,
        findings=findings[:_LONGEST_LIST],
        head_seq=tip.seq,
        head_hash=tip.hash,
        unsigned_events=unsigned,
        signatures=signatures_in_words(of(session).trust, unsigned),
    )


def _is_alone(session: Session, asked_by: str) -> bool:
    """Take the right to verify for somebody, until the transaction ends; tell whether they do not have it already."""
    query = text("SELECT pg_try_advisory_xact_lock(:class, hashtext(:name))")
    return bool(session.scalar(query, {"class": _LOCKS, "name": asked_by}))


def _stream(session: Session, query: Select[*tuple[Any, ...]], at_once: int) -> Iterator[Any]:
    return iter(session.execute(query.execution_options(yield_per=at_once)))


def _events(session: Session) -> Verified:
    trust = of(session).trust
    unsigned = trust.in_order() if trust else lambda _: None
    events = (exported_fields(event) for event in repository.stream(session))
    for seq, wrong in follow(events, unsigned=unsigned):
        yield f"event {seq}", wrong


def _collections(session: Session) -> Verified:
    created, fixed = aliased(AuditEvent), aliased(AuditEvent)
    made = and_(created.collection_id == Collection.id, created.action == Action.COLLECTION_CREATE)
    query = (
        select(Collection, created, fixed, Calibration.sha256)
        .outerjoin(created, made)
        .outerjoin(fixed, fixed.seq == _last_fixed())
        .outerjoin(Calibration, Calibration.collection_id == Collection.id)
        .order_by(Collection.id)
    )
    for collection, event, fixing, calibration in _stream(session, query, _FEW):
        wrong = []
        if event is None:
            wrong.append("the event of its creation is missing")
        elif event.after != foundation_digest(collection):
            wrong.append("its name, model, encoder or method differ from what was created")
        elif collection.model_files and files_digest(collection.model_files) != collection.model_digest:
            wrong.append("the digests of its model's files differ from the model's digest")
        elif event.actor != collection.created_by:
            wrong.append(f"it is said to be made by {collection.created_by}, and was by {event.actor}")
        elif not is_just_before(collection.created_at, event.at):
            wrong.append("the time when it was made differs from its event")
        # What the first training fixed has no event of its own: the versions' digests cover it.
        keys = read(CollectionCalibrate, fixing)
        if fixing and (keys is None or collection.encoder_digest != keys.encoder):
            wrong.append("its encoder's digest differs from the one that was fixed")
        told = keys or read(CollectionCreate, event)
        if told and told.calibration not in (None, calibration):
            wrong.append("its calibration is gone, or differs from the one that was fixed")
        yield f"collection {collection.name}", wrong


def _last_fixed() -> Any:
    """Select the last event that fixed a collection's encoder, and its whitening if it has one."""
    event = aliased(AuditEvent)
    return (
        select(func.max(event.seq))
        .where(event.collection_id == Collection.id, event.action == Action.COLLECTION_CALIBRATE)
        .scalar_subquery()
    )


def _calibrations(session: Session) -> Verified:
    of_collection = func.count().over(partition_by=Calibration.collection_id).label("together")
    query = select(Calibration.id, Calibration.data, Calibration.sha256, of_collection).order_by(Calibration.id)
    for row in _stream(session, query, _FEW):
        twice = ["its collection has another one besides"] if row.together > 1 else []
        yield f"calibration {row.id}", [*_bytes_differ(row), *twice]


def _blocks(session: Session) -> Verified:
    query = select(Block.id, Block.data, Block.sha256).where(Block.erased_at.is_(None)).order_by(Block.id)
    for row in _stream(session, query, _FEW):
        yield f"block {row.id}", _bytes_differ(row)


def _bytes_differ(row: Any) -> list[str]:
    return [] if sha256_hex(row.data) == row.sha256 else ["stored bytes do not match their SHA-256"]


def _points(session: Session) -> Verified:
    """Verify the keys, also of points that are in no cluster yet: a training takes over what a preflight stored."""
    query = select(Point.id, sent(Point.key).label("key"), Point.key_sha256).where(Point.erased_at.is_(None))
    for row in _stream(session, query.order_by(Point.id), _MANY):
        same = sha256_hex(_bytes(row.key)) == row.key_sha256
        yield f"point {row.id}", [] if same else ["its key does not match its SHA-256"]


def _edits(session: Session) -> Verified:
    columns = select(Edit, Batch.collection_id, Batch.submitted_at)
    query = columns.outerjoin(Batch, Batch.id == Edit.batch_id).order_by(Edit.id)
    for edit, collection_id, submitted_at in _stream(session, query, _MANY):
        wrong = [] if edit.erased_at else _differences(edit)
        if edit.created_at != submitted_at:
            wrong.append("its time is not that of its batch's submission")
        if edit.collection_id != collection_id:
            wrong.append("its collection is not its batch's")
        yield f"edit {edit.id}", wrong
        session.expunge(edit)
    elsewhere = (
        select(Activation.edit_id)
        .join(Edit, Edit.id == Activation.edit_id)
        .where(or_(Activation.collection_id != Edit.collection_id, Activation.prompt_key != Edit.prompt_key))
        .order_by(Activation.id)
    )
    for edit_id in session.scalars(elsewhere):
        yield f"edit {edit_id}", ["it acts in another collection, or for another prompt, than its own"]


def _differences(edit: Edit) -> list[str]:
    wrong = []
    if content_of(edit) != edit.digest:
        wrong.append("its content does not match its digest")
    if prompt_key(edit.prompt, edit.kind) != edit.prompt_key:
        wrong.append("its prompt does not match its prompt key")
    if record_of(edit) != edit.record_digest:
        wrong.append("its position, author, reason, source or what it replaces do not match its digest")
    return wrong


def _clusters(session: Session) -> Verified:
    query = select(
        Cluster.id,
        Cluster.cluster_no,
        Cluster.collection_id,
        sent(Cluster.centre).label("centre"),
        Cluster.radius,
        Cluster.label,
        Cluster.members,
        Cluster.digest,
        Cluster.valid,
        Cluster.erased_at,
    ).order_by(Cluster.id)
    for rows in session.execute(query.execution_options(yield_per=_FEW)).partitions():
        members = _members(session, list({point for row in rows for point in row.members}))
        for row in rows:
            subject = f"cluster {row.cluster_no} from version {row.valid.lower} on"
            missing = [point for point in row.members if point not in members]
            if missing:
                yield subject, [f"its points {missing} are missing"]
                continue
            if row.erased_at is not None:
                yield subject, []  # the digest is kept; verify_erasures asks whether it may be empty
                continue
            found = cluster_digest(
                centre=float32_bytes(received_vector(row.centre)),
                radius=row.radius,
                label=row.label,
                members=(members[point] for point in row.members),
            )
            yield subject, [] if found == row.digest else ["its content does not match its digest"]


def _bytes(key: bytes | None) -> bytes:
    """Return a key as it enters a digest.

    key: None if it was erased.
    """
    return b"" if key is None else float32_bytes(received_vector(key))


def _members(session: Session, point_ids: Sequence[int]) -> dict[int, MemberContent]:
    query = (
        select(Point.id, sent(Point.key).label("key"), Point.role, Edit.digest, Block.sha256)
        .join(Edit, Edit.id == Point.edit_id)
        .join(Block, Block.id == Point.block_id)
    )
    return {
        row.id: MemberContent(_bytes(row.key), row.digest, row.role, row.sha256)
        for part in in_parts(point_ids)
        for row in session.execute(query.where(Point.id.in_(listed(part))))
    }


VERIFICATIONS: dict[str, Callable[[Session], Verified]] = {
    "events": _events,
    "collections": _collections,
    "calibrations": _calibrations,
    "batches": verify_batches,
    "approvals": verify_approvals,
    "approvals given": verify_given,
    "approvals needed": verify_needed,
    "policies": verify_policies,
    "queues": verify_queues,
    "jobs": verify_jobs,
    "job errors": verify_errors,
    "jobs' results": verify_trained,
    "edits": _edits,
    "blocks": _blocks,
    "points": _points,
    "clusters": _clusters,
    "versions": verify_versions,
    "records made": verify_told,
    "aliases": verify_aliases,
    "erasures": verify_erasures,
    "keys": verify_keys,
    "protections": verify_protections,
    "webhooks": verify_webhooks,
    "guards": verify_guards,
}
