"""Queries on API keys, and on the collection to which the ids in a request belong."""

from collections.abc import Sequence

from sqlalchemy import func, select, text, union, update
from sqlalchemy.orm import Session

from registry.tables.access import ApiKey, ApiKeyRole
from registry.tables.answers import Feedback
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.tables.edits import Batch, Edit
from registry.tables.jobs import Job

# The ids that occur in paths, and the table of each.
OWNERS: dict[str, type[Batch | Edit | Job | Feedback]] = {
    "batch_id": Batch,
    "edit_id": Edit,
    "job_id": Job,
    "feedback_id": Feedback,
}


def collection_of(session: Session, kind: str, record_id: int) -> int | None:
    """Return the collection of a batch, an edit, a job or a feedback.

    kind: a key of OWNERS.
    """
    table = OWNERS[kind]
    return session.scalar(select(table.collection_id).where(table.id == record_id))


def collection_named(session: Session, name: str) -> int | None:
    return session.scalar(select(Collection.id).where(Collection.name == name))


def collection_ids(session: Session, names: Sequence[str]) -> dict[str, int]:
    return dict(session.execute(select(Collection.name, Collection.id).where(Collection.name.in_(names))).all())


def collection_names(session: Session, ids: Sequence[int]) -> dict[int, str]:
    return dict(session.execute(select(Collection.id, Collection.name).where(Collection.id.in_(ids))).all())


def is_actor(session: Session, name: str) -> bool:
    """Return whether the record knows the name: of an event, of a key's owner, or of an approver."""
    places = (
        select(AuditEvent.seq).where(AuditEvent.actor == name),
        select(ApiKey.id).where(ApiKey.actor == name),
        select(Collection.id).where(Collection.approvers.contains([name])),
    )
    return any(session.scalar(select(query.exists())) for query in places)


def actors(session: Session) -> list[str]:
    """Return every name that the record knows, without those of workers."""
    acted = select(AuditEvent.actor).where(~AuditEvent.actor.startswith("worker/", autoescape=True))
    approving = select(func.unnest(Collection.approvers))
    return sorted(session.scalars(union(acted, select(ApiKey.actor), approving)))


def key_by_prefix(session: Session, prefix: str) -> ApiKey | None:
    return session.scalars(select(ApiKey).where(ApiKey.prefix == prefix)).one_or_none()


def lock_key(session: Session, key_id: int) -> ApiKey | None:
    query = select(ApiKey).where(ApiKey.id == key_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def keys(session: Session, *, before: int | None, limit: int) -> Sequence[ApiKey]:
    """Return keys older than key `before`, newest first."""
    query = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
    if before is not None:
        query = query.where(ApiKey.id < before)
    return session.scalars(query).all()


def roles_of(session: Session, key_ids: Sequence[int]) -> Sequence[ApiKeyRole]:
    query = select(ApiKeyRole).where(ApiKeyRole.key_id.in_(key_ids))
    return session.scalars(query.order_by(ApiKeyRole.key_id, ApiKeyRole.collection_id.nulls_first())).all()


def mark_used(session: Session, key_id: int) -> None:
    """Record that the key was used.

    If another request is marking the key or it is being revoked, skip its row instead of waiting. While the database is
    read-only, do nothing: what only reads is served.
    """
    if session.scalar(text("SELECT current_setting('transaction_read_only')::bool")):
        return
    free = select(ApiKey.id).where(ApiKey.id == key_id).with_for_update(key_share=True, skip_locked=True)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id.in_(free.scalar_subquery()))
        .values(last_used_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
