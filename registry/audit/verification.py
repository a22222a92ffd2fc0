"""Recomputing the whole record: the chain of events, and every digest that it holds to account.

Each check walks one kind of record as a stream, so memory stays the same whatever the size, and yields every record
with what is wrong about it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session, aliased

from registry.audit import repository
from registry.audit.models import AuditEvent
from registry.audit.schemas import FindingView, VerificationView
from registry.audit.service import hashed_fields
from registry.collections.models import Calibration, Collection
from registry.collections.service import foundation_digest
from registry.digests import (
    MemberContent,
    cluster_digest,
    edit_digest,
    edits_digest,
    event_hash,
    float32_bytes,
    prompt_key,
    sha256_hex,
)
from registry.edits.models import Batch, Edit
from registry.versions import repository as version_rows
from registry.versions.models import Alias, Block, Cluster, Point, Version
from registry.vocabulary import Action, BatchState

Checked = Iterator[tuple[str, list[str]]]  # a record, and what is wrong with it
_FEW = 100  # rows at a time where a row holds a block's bytes or a cluster's members
_MANY = 2_000
_LONGEST_LIST = 1_000  # findings told; a record that is broken in more places is broken


def verify(session: Session) -> VerificationView:
    """Check everything, against one snapshot. Call it before anything else in the session's transaction."""
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    checks: dict[str, Callable[[Session], Checked]] = {
        "events": _events,
        "collections": _collections,
        "calibrations": _calibrations,
        "batches": _batches,
        "edits": _edits,
        "blocks": _blocks,
        "clusters": _clusters,
        "versions": _versions,
        "aliases": _aliases,
    }
    checked: dict[str, int] = {}
    findings: list[FindingView] = []
    for name, check in checks.items():
        checked[name] = 0
        for subject, wrong in check(session):
            checked[name] += 1
            findings += [FindingView(subject=subject, detail=detail) for detail in wrong]
    tip = repository.tip(session)
    return VerificationView(
        ok=not findings,
        checked=checked,
        findings=findings[:_LONGEST_LIST],
        head_seq=tip.seq,
        head_hash=tip.hash,
    )


def _stream(session: Session, query: Select[*tuple[Any, ...]], at_once: int) -> Iterator[Any]:
    return iter(session.execute(query.execution_options(yield_per=at_once)))


def _events(session: Session) -> Checked:
    seq, previous = 0, repository.GENESIS
    for event in repository.stream(session):
        wrong = []
        if event.seq != seq + 1:
            wrong.append(f"event {seq + 1} is missing before it")
        if event.previous_hash != previous:
            wrong.append("it does not follow the event before it: one of the two was changed")
        if event_hash(hashed_fields(event)) != event.hash:
            wrong.append("its content does not match its hash")
        yield f"event {event.seq}", wrong
        seq, previous = event.seq, event.hash


def _collections(session: Session) -> Checked:
    created = and_(AuditEvent.collection_id == Collection.id, AuditEvent.action == Action.COLLECTION_CREATE)
    query = select(Collection, AuditEvent.after).outerjoin(AuditEvent, created).order_by(Collection.id)
    for collection, recorded in _stream(session, query, _FEW):
        wrong = []
        if recorded is None:
            wrong.append("the event of its creation is missing")
        elif recorded != foundation_digest(collection):
            wrong.append("its name, model, encoder or method differ from what was created")
        yield f"collection {collection.name}", wrong


def _calibrations(session: Session) -> Checked:
    query = select(Calibration.id, Calibration.data, Calibration.sha256).order_by(Calibration.id)
    for row in _stream(session, query, _FEW):
        yield f"calibration {row.id}", _bytes_differ(row)


def _blocks(session: Session) -> Checked:
    query = select(Block.id, Block.data, Block.sha256).order_by(Block.id)
    for row in _stream(session, query, _FEW):
        yield f"block {row.id}", _bytes_differ(row)


def _bytes_differ(row: Any) -> list[str]:
    return [] if sha256_hex(row.data) == row.sha256 else ["stored bytes do not match their SHA-256"]


def _batches(session: Session) -> Checked:
    subject = func.concat("batch/", Batch.id)
    submitted = and_(AuditEvent.subject == subject, AuditEvent.action == Action.BATCH_SUBMIT)
    decision = aliased(AuditEvent)
    decided = (
        select(decision.actor)
        .where(decision.subject == subject)
        .where(decision.action.in_([Action.BATCH_APPROVE, Action.BATCH_REJECT]))
        .order_by(decision.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(Batch, AuditEvent.after, AuditEvent.actor, decided).outerjoin(AuditEvent, submitted).order_by(Batch.id)
    )
    for batch, recorded, submitter, decider in _stream(session, query, _FEW):
        wrong = []
        if recorded is None:
            wrong.append("the event of its submission is missing")
        elif (recorded, submitter) != (batch.edits_digest, batch.submitted_by):
            wrong.append("its edits' digest or its submitter differ from the event of its submission")
        if batch.decided_by != decider:
            wrong.append(f"it is {batch.state} by {batch.decided_by}, but the last decision's event names {decider}")
        digests = session.scalars(
            select(Edit.digest)
            .where(Edit.batch_id == batch.id)
            .order_by(Edit.position)
            .execution_options(yield_per=_MANY)
        )
        if edits_digest(digests) != batch.edits_digest:
            wrong.append("its edits do not match its digest: one was changed, added or removed")
        if batch.state == BatchState.APPLIED and not _was_applied(session, batch.id):
            wrong.append("it is applied, but no version came of it")
        yield f"batch {batch.id}", wrong


def _was_applied(session: Session, batch_id: int) -> bool:
    return session.scalar(select(Version.id).where(Version.batch_id == batch_id)) is not None


def _edits(session: Session) -> Checked:
    for edit in session.scalars(select(Edit).order_by(Edit.id).execution_options(yield_per=_MANY)):
        wrong = []
        content = edit_digest(
            prompt=edit.prompt,
            target=edit.target,
            rephrases=edit.rephrases,
            unchanged=edit.unchanged,
            kind=edit.kind,
        )
        if content != edit.digest:
            wrong.append("its content does not match its digest")
        if prompt_key(edit.prompt) != edit.prompt_key:
            wrong.append("its prompt does not match its prompt key")
        yield f"edit {edit.id}", wrong
        session.expunge(edit)


def _clusters(session: Session) -> Checked:
    query = select(
        Cluster.id,
        Cluster.cluster_no,
        Cluster.collection_id,
        Cluster.centre,
        Cluster.radius,
        Cluster.label,
        Cluster.members,
        Cluster.digest,
        Cluster.valid,
    ).order_by(Cluster.id)
    for rows in session.execute(query.execution_options(yield_per=_FEW)).partitions():
        members = _members(session, {point for row in rows for point in row.members})
        for row in rows:
            subject = f"cluster {row.cluster_no} from version {row.valid.lower} on"
            missing = [point for point in row.members if point not in members]
            if missing:
                yield subject, [f"its points {missing} are missing"]
                continue
            found = cluster_digest(
                centre=float32_bytes(row.centre),
                radius=row.radius,
                label=row.label,
                members=(members[point] for point in row.members),
            )
            yield subject, [] if found == row.digest else ["its content does not match its digest"]


def _members(session: Session, point_ids: set[int]) -> dict[int, MemberContent]:
    query = (
        select(Point.id, Point.key, Point.role, Edit.digest, Block.sha256)
        .join(Edit, Edit.id == Point.edit_id)
        .join(Block, Block.id == Point.block_id)
        .where(Point.id.in_(point_ids))
    )
    return {
        row.id: MemberContent(float32_bytes(row.key), row.digest, row.role, row.sha256)
        for row in session.execute(query)
    }


def _versions(session: Session) -> Checked:
    subject = func.concat("version/", Collection.name, "/", Version.number)
    query = (
        select(Version, Collection, AuditEvent)
        .join(Collection, Collection.id == Version.collection_id)
        .outerjoin(AuditEvent, AuditEvent.subject == subject)
        .order_by(Version.collection_id, Version.number)
    )
    before: Version | None = None
    for version, collection, event in _stream(session, query, _FEW):
        parent = before if before is not None and before.collection_id == version.collection_id else None
        wrong = []
        if version.number != (parent.number if parent else 0) + 1:
            wrong.append("the version before it is missing")
        if version_rows.digest_in(session, collection, version.number) != version.content_digest:
            wrong.append("its content does not match its digest")
        if event is None:
            wrong.append("its event is missing")
        elif _told(version) != (
            event.after, event.reason, event.details.get("message"), event.details.get("author")
        ):  # fmt: skip
            wrong.append("its digest, reason, message or author differ from its event")
        yield f"version {version.number} of {collection.name}", wrong
        before = version


def _told(version: Version) -> tuple[str, str, str, str]:
    return version.content_digest, version.reason, version.message, version.author


def _aliases(session: Session) -> Checked:
    """Every place that an alias pointed at has its event, in the same order."""
    ranked = func.row_number().over(partition_by=(Alias.collection_id, Alias.name), order_by=Alias.id)
    rows = select(Alias, ranked.label("nth")).subquery()
    told = select(
        AuditEvent.subject,
        AuditEvent.actor,
        AuditEvent.details["to"].as_integer().label("to"),
        func.row_number().over(partition_by=AuditEvent.subject, order_by=AuditEvent.seq).label("nth"),
    )
    events = told.where(AuditEvent.action == Action.ALIAS_SET).subquery()
    subject = func.concat("alias/", Collection.name, "/", rows.c.name)
    query = (
        select(rows, Collection.name.label("collection"), events.c.actor, events.c.to)
        .join(Collection, Collection.id == rows.c.collection_id)
        .outerjoin(events, and_(events.c.subject == subject, events.c.nth == rows.c.nth))
        .order_by(rows.c.id)
    )
    for row in _stream(session, query, _MANY):
        same = (row.number, row.set_by) == (row.to, row.actor)
        yield (
            f"alias {row.name} of {row.collection} at version {row.number}",
            [] if same else ["where it points, or who set it, differs from its event"],
        )
