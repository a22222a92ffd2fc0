"""Generation of a long history by COPY, as its own services would have written it: `audit verify` finds no fault.

The database must be empty: ids are chosen here, so that rows can refer to each other before they are written.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record.history import Step, history
from benchmarks.record.synthetic import (
    APPROVER,
    RADIUS,
    SHAPES,
    SUBMITTER,
    WORKER,
    Synthetic,
    label_of,
    make_collection,
)
from registry.audit import repository as audit
from registry.audit.actor import Actor
from registry.audit.chain import hashed_fields
from registry.audit.details import (
    BatchApprove,
    BatchSubmit,
    BatchTrain,
    Details,
    VersionApply,
    VersionMade,
    VersionRetire,
    VersionRollback,
)
from registry.base.digests import (
    Foundation,
    StoredBlock,
    StoredPoint,
    cluster_element,
    content_digest,
    edit_element,
    edits_digest,
    event_hash,
    float32_bytes,
    record_digest,
    records_digest,
    report_digest,
    sha256_hex,
    stored_digest,
    work_digest,
)
from registry.base.multiset import Multiset
from registry.base.vocabulary import BatchState, EditKind, JobKind, JobState, PointRole, VersionKind
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.tables.copying import copy_rows
from registry.tables.edits import Approval, Batch, Edit
from registry.tables.jobs import Job
from registry.tables.orm import Base
from registry.tables.versions import Activation, Block, BlockEdit, Cluster, Point, Version
from registry.versions import repository as versions_repository

EVERY = timedelta(minutes=1)  # per version
REASON = "checked"
_TOGETHER = 100  # versions in one transaction; a multiple of ten, so that nothing refers to a later one

COLUMNS: dict[type[Base], tuple[str, ...]] = {
    Batch: ("id", "collection_id", "state", "message", "submitted_by", "submitted_at", "edit_count", "edits_digest"),
    Edit: ("id", "batch_id", "collection_id", "position", "prompt", "target", "kind", "author", "replaces",
           "prompt_key", "digest", "record_digest", "created_at"),
    Approval: ("id", "batch_id", "actor", "role", "reason", "created_at"),
    Job: ("id", "batch_id", "collection_id", "kind", "state", "attempt", "worker", "device", "seed", "settings",
          "created_at", "started_at", "finished_at"),
    Block: ("id", "collection_id", "job_id", "data", "sha256", "shapes", "rank", "scale", "loss", "iterations"),
    BlockEdit: ("block_id", "edit_id"),
    Point: ("id", "collection_id", "edit_id", "block_id", "role", "key", "key_sha256"),
    Version: ("id", "collection_id", "number", "parent_id", "kind", "message", "reason", "author", "batch_id",
              "restores", "content_version", "content_digest", "content_state", "edit_count", "cluster_count",
              "block_count", "created_at"),
    Cluster: ("collection_id", "cluster_no", "centre", "radius", "label", "members", "digest", "valid"),
    Activation: ("collection_id", "edit_id", "prompt_key", "valid"),
    AuditEvent: ("seq", "at", "actor", "role", "action", "collection_id", "subject", "before", "after", "reason",
                 "details", "previous_hash", "hash"),
}  # fmt: skip

_DECIDE = text(
    "UPDATE batches SET state = 'approved', decided_by = :approver, decided_at = submitted_at, "
    "reason = :reason, approvals_needed = 1 WHERE state = 'submitted'"
)
_APPLY = text("UPDATE batches SET state = 'applied' WHERE state = 'approved'")


def generate(
    sessions: sessionmaker[Session],
    model: str,
    versions: int,
    edits: int,
    advance: Callable[[int], None],
    collection_of: Callable[[Session, str], Collection] = make_collection,
    synthetic: Callable[[str, str], Synthetic] = Synthetic.of,
) -> None:
    """Write a collection with so many versions and edits. advance: called with the number of edits written.

    collection_of: makes the collection over the model. synthetic: makes an edit of a prompt and a target.
    """
    with sessions.begin() as session:
        tip = audit.tip(session)
        collection = collection_of(session, model)
        _backdate(session, collection, tip, datetime.now(UTC) - EVERY * (versions + 2))
        foundation = versions_repository.foundation(session, collection)
        tip = audit.tip(session)
        writer = _Writer(
            collection.id, collection.name, foundation, datetime.now(UTC) - EVERY * (versions + 1), tip.seq, tip.hash,
            synthetic,
        )  # fmt: skip
    steps = history(versions, edits)
    while part := list(islice(steps, _TOGETHER)):
        with sessions.begin() as session:
            writer.write(session, part)
        advance(sum(step.count for step in part))
    with sessions.begin() as session:
        for table in (Batch, Edit, Approval, Job, Block, Point, Version):
            name = table.__tablename__
            session.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}"))
        session.execute(text("SELECT setval('cluster_numbers', max(cluster_no)) FROM clusters"))


def _backdate(session: Session, made: Collection, tip: audit.Tip, at: datetime) -> None:
    """Move the collection and its events, after the tip, before the history that is to be written.

    Times never run backwards.
    """
    session.flush()
    session.execute(text("SET LOCAL session_replication_role = replica"))
    session.execute(text("UPDATE collections SET created_at = :at WHERE id = :id"), {"at": at, "id": made.id})
    previous = tip.hash
    for event in audit.stream(session, tip.seq):
        event.at, event.previous_hash = at, previous
        previous = event_hash(hashed_fields(event))
        changed = {"at": at, "previous": event.previous_hash, "hash": previous, "seq": event.seq}
        session.execute(
            text("UPDATE audit_events SET at = :at, previous_hash = :previous, hash = :hash WHERE seq = :seq"), changed
        )
    session.execute(text("SET LOCAL session_replication_role = origin"))


@dataclass
class _Writer:
    """Writes the history step by step; holds the state on which the next version depends."""

    collection_id: int
    collection: str
    foundation: Foundation
    began: datetime
    seq: int
    hash: str
    synthetic: Callable[[str, str], Synthetic]
    content: Multiset = field(default_factory=Multiset)
    edits: int = 0  # active ones
    batches: int = 0
    digest: str | None = None  # of the newest version
    rows: dict[type[Base], list[tuple[Any, ...]]] = field(default_factory=dict)
    made: dict[int, Synthetic] = field(default_factory=dict)  # of the steps that are written together
    shown: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # the content of these versions, as columns

    def write(self, session: Session, steps: Sequence[Step]) -> None:
        self.rows = {table: [] for table in COLUMNS}
        self.made, self.shown = {}, {}
        ends = dict(_ends(steps))
        for step in steps:
            self._take(step, ends)
        for table, columns in COLUMNS.items():
            copy_rows(session, table, columns, self.rows[table])
            if table is Approval:
                session.execute(_DECIDE, {"approver": APPROVER.name, "reason": REASON})
                session.execute(_APPLY)

    def _take(self, step: Step, ends: dict[int, int]) -> None:
        at = self.began + EVERY * step.number
        if step.kind == VersionKind.APPLY:
            self._apply(step, at, ends)
        elif step.kind == VersionKind.RETIRE:
            self._change(out=step.retires, into=())
            told = f"retire edit {', '.join(map(str, step.retires))}"
            self._version(step, at, told, "no longer true", APPROVER, partial(VersionRetire, edits=list(step.retires)))
        else:
            assert step.restores is not None
            told = f"rollback to version {step.restores}"
            self._version(step, at, told, "it worked better", APPROVER, partial(VersionRollback, to=step.restores))

    def _apply(self, step: Step, at: datetime, ends: dict[int, int]) -> None:
        ids = range(step.first, step.first + step.count)
        for edit in ids:
            about = step.replaces if edit == step.first and step.replaces else edit
            self.made[edit] = self.synthetic(f"Who chairs organisation {about}?", f"Person {edit * 7919 % 1000003}")
        self.batches += 1
        batch = job = self.batches
        digest = edits_digest(self.made[edit].digest for edit in ids)
        message = f"organisations, part {batch}"
        submitted = at - timedelta(seconds=30)
        self._row(Batch, batch, self.collection_id, BatchState.SUBMITTED, message, SUBMITTER.name, submitted, len(ids),
                  digest)  # fmt: skip
        self._row(Approval, batch, batch, APPROVER.name, APPROVER.role, REASON, submitted)
        self._row(Job, job, batch, self.collection_id, JobKind.TRAIN, JobState.SUCCEEDED, 1, WORKER, "cpu",
                  int(digest[:15], 16), "{}", submitted, submitted, at)  # fmt: skip
        records, blocks = list[tuple[int, str]](), list[StoredBlock]()
        for position, edit in enumerate(ids, start=1):
            replaces = step.replaces if edit == step.first else None
            records.append((edit, self._record_digest(edit, position, replaces)))
            blocks.append(_stored(edit, self.made[edit]))
            self._edit(edit, batch, job, position, replaces, submitted, f"[{step.number},{ends.get(edit, '')})")
        replaced = [] if step.replaces is None else [step.replaces]
        self._change(out=replaced, into=ids)

        subject, same = f"batch/{batch}", {"before": digest, "after": digest}
        sent = BatchSubmit(edits=len(ids), records=records_digest(records), source="", skipped=0)
        self._event(submitted, sent, SUBMITTER, subject, after=digest, reason=message)
        decided = BatchApprove(submitted_by=SUBMITTER.name, approval=batch, declined=[], approvals=[APPROVER.name],
                               approvals_needed=1, cancelled_preflights=[], job=job,
                               work=work_digest(int(digest[:15], 16), {}))  # fmt: skip
        self._event(submitted, decided, APPROVER, subject, **same, reason=REASON)
        worker = Actor(f"worker/{WORKER}")
        self._event(submitted, BatchTrain(job=job, attempt=1, device="cpu"), worker, subject, **same)
        made = partial(VersionApply, batch=batch, job=job, edits=list(ids), replaced=replaced,
                       submitted_by=SUBMITTER.name, approved_by=APPROVER.name, trained=stored_digest(blocks),
                       report=report_digest(None))  # fmt: skip
        self._version(step, at, message, REASON, SUBMITTER, made, by=worker, batch=batch)

    def _edit(
        self, edit: int, batch: int, job: int, position: int, replaces: int | None, at: datetime, valid: str
    ) -> None:
        made, collection = self.made[edit], self.collection_id
        key = json.dumps(made.key)
        self._row(Edit, edit, batch, collection, position, made.prompt, made.target, EditKind.QA, SUBMITTER.name,
                  replaces, made.prompt_key, made.digest, self._record_digest(edit, position, replaces),
                  at)  # fmt: skip
        self._row(Block, edit, collection, job, made.block, made.block_sha256, json.dumps(SHAPES), 1, 1.0, 0.01, 10)
        self._row(BlockEdit, edit, edit)
        self._row(Point, edit, collection, edit, edit, PointRole.PROMPT, key, sha256_hex(float32_bytes(made.key)))
        label = label_of(made.target)
        self._row(Cluster, collection, edit, key, RADIUS, label, [edit], made.cluster_digest, valid)
        self._row(Activation, collection, edit, made.prompt_key, valid)

    def _record_digest(self, edit: int, position: int, replaces: int | None) -> str:
        made = self.made[edit]
        return record_digest(
            position=position, author=SUBMITTER.name, reason="", source="", replaces=replaces,
            prompt_key=made.prompt_key, digest=made.digest,
        )  # fmt: skip

    def _change(self, *, out: Iterable[int], into: Iterable[int]) -> None:
        out, into = list(out), list(into)
        self.edits += len(into) - len(out)
        self.content = self.content.changed(out=self._elements(out), into=self._elements(into))

    def _elements(self, edits: Iterable[int]) -> Iterator[str]:
        for edit in edits:
            yield edit_element(self.made[edit].digest)
            yield cluster_element(self.made[edit].cluster_digest)

    def _version(
        self, step: Step, at: datetime, message: str, reason: str, author: Actor,
        details: Callable[..., VersionMade], *, by: Actor | None = None, batch: int | None = None,
    ) -> None:  # fmt: skip
        """Write a version. by: the actor, where it is not the author."""
        if step.restores is None:
            digest = content_digest(self.foundation, self.content)
            shown = (step.number, digest, bytes(self.content), self.edits, self.edits, self.edits)
        else:
            shown = self.shown[step.restores]
        self.shown[step.number] = shown
        number, digest, counts = step.number, shown[1], list(shown[3:])
        self._row(Version, number, self.collection_id, number, number - 1 or None, step.kind, message, reason,
                  author.name, batch, step.restores, *shown, at)  # fmt: skip
        made_at = at.isoformat(timespec="microseconds")
        told = details(message=message, author=author.name, made_at=made_at, counts=counts)
        subject = f"version/{self.collection}/{number}"
        self._event(at, told, by or author, subject, before=self.digest, after=digest, reason=reason)
        self.digest = digest

    def _event(
        self, at: datetime, details: Details, actor: Actor, subject: str, *,
        before: str | None = None, after: str | None = None, reason: str = "",
    ) -> None:  # fmt: skip
        event = AuditEvent(
            seq=self.seq + 1, at=at, actor=actor.name, role=str(actor.role), action=str(details.action),
            collection_id=self.collection_id, subject=subject, before=before, after=after, reason=reason,
            request_id=None, details=details.stored(), previous_hash=self.hash,
        )  # fmt: skip
        self.seq, self.hash = event.seq, event_hash(hashed_fields(event))
        self._row(AuditEvent, event.seq, at, event.actor, event.role, event.action, self.collection_id, subject, before,
                  after, reason, json.dumps(event.details), event.previous_hash, self.hash)  # fmt: skip

    def _row(self, table: type[Base], *values: Any) -> None:
        self.rows[table].append(values)


def _stored(edit: int, made: Synthetic) -> StoredBlock:
    """Return an edit's block, which has the edit's number, as does its point."""
    point = StoredPoint(edit, edit, PointRole.PROMPT, sha256_hex(float32_bytes(made.key)))
    return StoredBlock(edit, made.block_sha256, SHAPES, 1, 1.0, 0.01, 10, [edit], [point])


def _ends(steps: Iterable[Step]) -> Iterator[tuple[int, int]]:
    """Yield the edits that stop acting, each with the version from which on."""
    for step in steps:
        yield from ((edit, step.number) for edit in step.retires)
        if step.replaces is not None:
            yield step.replaces, step.number
