"""Queries on edits and batches."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from registry.base.digests import records_digest
from registry.base.vocabulary import BatchState
from registry.edits.records import Record
from registry.tables.copying import copy_rows
from registry.tables.edits import Approval, Batch, Edit
from registry.tables.orm import in_parts, listed
from registry.tables.versions import Activation, Version

PENDING = (BatchState.SUBMITTED, BatchState.APPROVED, BatchState.TRAINING)
DECIDED = (BatchState.APPROVED, BatchState.TRAINING)
SMALL_BATCH = 100  # edits: of larger ones no reasons are compared, since a page of versions would read them all


@dataclass(frozen=True)
class StandingEdit:
    """An edit that is active, or will be once its batch is applied."""

    id: int
    prompt: str
    target: str
    prompt_key: str
    batch_id: int
    batch_state: str
    active_since: int | None  # the version's number; None: its batch is not applied yet
    replaces: int | None


def _is_active(collection_id: int) -> ColumnElement[bool]:
    """Return the condition that the edit is active in the newest version of its collection."""
    return and_(Activation.edit_id == Edit.id, Activation.valid.contains(_newest_state(collection_id)))


def _newest_state(collection_id: int) -> Any:
    """Return a subquery for the state of a collection's newest version.

    Before the first version it is NULL, which no range contains.
    """
    query = select(Version.content_version).where(Version.collection_id == collection_id)
    return query.order_by(Version.number.desc()).limit(1).scalar_subquery()


def standing_by_key(
    session: Session,
    collection_id: int,
    prompt_keys: Iterable[str],
    *,
    pending: Sequence[BatchState] = PENDING,
    except_batch: int | None = None,
) -> list[StandingEdit]:
    """Return edits for the given prompts that are active, or in a batch whose state is among `pending`."""
    return _standing(session, collection_id, Edit.prompt_key, prompt_keys, pending, except_batch)


def standing_by_id(session: Session, collection_id: int, edit_ids: Iterable[int]) -> list[StandingEdit]:
    return _standing(session, collection_id, Edit.id, edit_ids, PENDING, None)


def replacing(
    session: Session,
    collection_id: int,
    edit_ids: Iterable[int],
    *,
    pending: Sequence[BatchState] = DECIDED,
    except_batch: int | None = None,
) -> list[StandingEdit]:
    """Return edits that replace one of those given: active, or in another batch whose state is among `pending`."""
    return _standing(session, collection_id, Edit.replaces, edit_ids, pending, except_batch)


def not_replaceable(session: Session, collection_id: int, edit_ids: Iterable[int]) -> set[int]:
    """Return those of the given edits that are no longer active, or not yet, while their batch is being trained.

    This excludes edits that never were active and are not about to be: whoever approves them later finds that they were
    replaced.
    """
    ids = set(edit_ids)
    standing = _standing(session, collection_id, Edit.id, ids, DECIDED, None)
    found = {edit.id for edit in standing if edit.active_since is None}
    for part in in_parts(sorted(ids - {edit.id for edit in standing})):
        found.update(session.scalars(select(Activation.edit_id).where(Activation.edit_id.in_(part))))
    return found


def _standing(
    session: Session,
    collection_id: int,
    column: Any,
    values: Iterable[Any],
    pending: Sequence[BatchState],
    except_batch: int | None,
) -> list[StandingEdit]:
    found: list[StandingEdit] = []
    for part in in_parts(sorted(set(values))):
        # Joined rather than compared with ANY: a prepared statement compares with each element in turn.
        wanted = func.unnest(literal(part, ARRAY(column.type))).table_valued("value").render_derived()
        query = (
            select(
                Edit.id,
                Edit.prompt,
                Edit.target,
                Edit.prompt_key,
                Edit.batch_id,
                Batch.state,
                func.lower(Activation.valid),
                Edit.replaces,
            )
            .join(wanted, column == wanted.c.value)
            .join(Batch, Batch.id == Edit.batch_id)
            .outerjoin(Activation, _is_active(collection_id))
            .where(Edit.collection_id == collection_id)
            .where(Activation.id.is_not(None) | Batch.state.in_(pending))
            .order_by(Edit.id)
        )
        if except_batch is not None:
            query = query.where(Edit.batch_id != except_batch)
        found += [StandingEdit(*row) for row in session.execute(query)]
    # Removed here because in the query each edit would be compared with all declined ones.
    left_out = declined(session, {edit.batch_id for edit in found if edit.active_since is None})
    return [edit for edit in found if edit.active_since is not None or edit.id not in left_out]


_EDIT_COLUMNS = (
    "batch_id", "collection_id", "position", "prompt", "target", "alternatives", "rephrases", "unchanged", "kind",
    "author", "reason", "source", "replaces", "prompt_key", "digest", "record_digest",
)  # fmt: skip


def insert_edits(session: Session, batch: Batch, records: Iterable[Record]) -> str:
    """Insert the edits of a batch, and return the digest over all that is said of them.

    An edit without an author gets the batch's submitter.
    """
    rows = (
        (
            batch.id, batch.collection_id, each.position, each.prompt, each.target, list(each.alternatives),
            list(each.rephrases), list(each.unchanged), each.kind, each.author or batch.submitted_by,
            each.reason, each.source, each.replaces, each.prompt_key, each.digest,
            each.record_digest(batch.submitted_by),
        )
        for each in records
    )  # fmt: skip
    copy_rows(session, Edit, _EDIT_COLUMNS, rows)
    return records_of(session, batch.id)


def records_of(session: Session, batch_id: int) -> str:
    """Return the digest over what was said of a batch's edits, in their order."""
    query = select(Edit.id, Edit.record_digest).where(Edit.batch_id == batch_id).order_by(Edit.position)
    rows = session.execute(query.execution_options(yield_per=5_000))
    return records_digest((row.id, row.record_digest) for row in rows)


def batch(session: Session, batch_id: int) -> Batch | None:
    return session.get(Batch, batch_id)


def lock_batch(session: Session, batch_id: int) -> Batch | None:
    query = select(Batch).where(Batch.id == batch_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def batches(
    session: Session, collection_id: int, *, state: BatchState | None, before: int | None, limit: int
) -> Sequence[Batch]:
    query = select(Batch).where(Batch.collection_id == collection_id).order_by(Batch.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Batch.state == state)
    if before is not None:
        query = query.where(Batch.id < before)
    return session.scalars(query).all()


def active_without(session: Session, collection_id: int, prompt_keys: Iterable[str]) -> list[int]:
    """Return the ids of the active edits for other prompts than these."""
    query = select(Edit.id, Edit.prompt_key).join(Activation, _is_active(collection_id))
    known = set(prompt_keys)
    found = session.execute(query.where(Edit.collection_id == collection_id).order_by(Edit.id))
    return [edit_id for edit_id, prompt_key in found if prompt_key not in known]


def waiting_without(session: Session, collection_id: int, prompt_keys: Iterable[str]) -> dict[int, int]:
    """Return, by batch, how many edits wait for other prompts than these."""
    query = select(Edit.batch_id, Edit.prompt_key).join(Batch, Batch.id == Edit.batch_id)
    known = set(prompt_keys)
    waiting = query.where(Edit.collection_id == collection_id, Batch.state.in_(PENDING)).order_by(Edit.batch_id)
    return Counter(batch_id for batch_id, prompt_key in session.execute(waiting) if prompt_key not in known)


_READ = (
    Edit.id, Edit.prompt, Edit.target, Edit.alternatives, Edit.rephrases, Edit.unchanged, Edit.kind, Edit.author,
    Edit.reason, Edit.source, Edit.replaces,
)  # fmt: skip


def of_batch(session: Session, batch_id: int, limit: int | None = None) -> Sequence[Edit]:
    """Return the edits of a batch in the order of the submission; the first `limit`, or all."""
    query = select(Edit).where(Edit.batch_id == batch_id).order_by(Edit.position).limit(limit)
    return session.scalars(query).all()


def texts_of_batch(session: Session, batch_id: int) -> Sequence[Any]:
    """Return what a reviewer reads of a batch's edits, whose content was not erased, in the order of the submission."""
    query = select(*_READ).where(Edit.batch_id == batch_id, Edit.erased_at.is_(None)).order_by(Edit.position)
    return session.execute(query).all()


def standing_texts(session: Session, collection_id: int, *, except_batch: int, most: int) -> Sequence[Any]:
    """Return what is asked of edits that are active, or in another batch that waits: of the newest ones."""
    query = (
        select(Edit.id, Edit.prompt, Edit.target, Edit.rephrases)
        .join(Batch, Batch.id == Edit.batch_id)
        .outerjoin(Activation, _is_active(collection_id))
        .where(Edit.collection_id == collection_id, Edit.batch_id != except_batch, Edit.erased_at.is_(None))
        .where(Activation.id.is_not(None) | Batch.state.in_(PENDING))
        .order_by(Edit.id.desc())
        .limit(most)
    )
    return session.execute(query).all()


def approvals(session: Session, batch_id: int) -> Sequence[Approval]:
    """Return a batch's approvals in the order in which they were given."""
    return session.scalars(select(Approval).where(Approval.batch_id == batch_id).order_by(Approval.id)).all()


def declined(session: Session, batch_ids: Collection[int]) -> set[int]:
    """Return the ids of the batches' edits that an approver left out."""
    found: set[int] = set()
    for part in in_parts(sorted(batch_ids)):
        found.update(session.scalars(select(func.unnest(Approval.declined)).where(Approval.batch_id.in_(part))))
    return found


def common_reasons(session: Session, batch_ids: Collection[int]) -> dict[int, str]:
    """Return for each small batch whose edits were all submitted for one reason this reason."""
    query = (
        select(Edit.batch_id, func.min(Edit.reason))
        .join(Batch, Batch.id == Edit.batch_id)
        .where(Batch.id.in_(listed(sorted(batch_ids))), Batch.edit_count <= SMALL_BATCH, Edit.position <= SMALL_BATCH)
        .group_by(Edit.batch_id)
        .having(func.min(Edit.reason) == func.max(Edit.reason), func.min(Edit.reason) != "")
    )
    return dict(session.execute(query).all())


def left_out_counts(session: Session, batch_ids: Collection[int]) -> dict[int, int]:
    """Return how many edits of each batch approvers left out, where there are any."""
    found: dict[int, set[int]] = {}
    query = select(Approval.batch_id, Approval.declined).where(Approval.batch_id.in_(listed(sorted(batch_ids))))
    for batch_id, left_out in session.execute(query):
        found.setdefault(batch_id, set()).update(left_out)
    return {batch_id: len(left_out) for batch_id, left_out in found.items() if left_out}


def by_ids(session: Session, edit_ids: Iterable[int]) -> list[Edit]:
    """Return the edits in the order of their ids."""
    found: list[Edit] = []
    for part in in_parts(sorted(set(edit_ids))):
        found += session.scalars(select(Edit).where(Edit.id.in_(listed(part))).order_by(Edit.id))
    return found


def successors(session: Session, edit: Edit, batch_ids: Iterable[int | None]) -> dict[int, int]:
    """Return, by batch id, the edit of that batch that replaced `edit`."""
    query = select(Edit.batch_id, Edit.id).where(
        Edit.batch_id.in_([batch_id for batch_id in batch_ids if batch_id is not None]),
        (Edit.replaces == edit.id) | (Edit.prompt_key == edit.prompt_key),
        Edit.id != edit.id,
    )
    return dict(session.execute(query).all())


def with_activity(
    session: Session, collection_id: int, *, batch_id: int | None, active: bool | None, after: int, limit: int
) -> list[tuple[Edit, int | None]]:
    """Return edits after id `after`, with the version from which each is active, or None if it is not active."""
    query = (
        select(Edit, func.lower(Activation.valid))
        # The bound is repeated because it is not inferred: this makes the page begin there in both tables.
        .outerjoin(Activation, and_(_is_active(collection_id), Activation.edit_id > after))
        .where(Edit.collection_id == collection_id, Edit.id > after)
        .order_by(Edit.id)
        .limit(limit)
    )
    if active is not None:
        query = query.where(Activation.id.is_not(None) if active else Activation.id.is_(None))
    if batch_id is not None:
        query = query.where(Edit.batch_id == batch_id)
    return [(edit, since) for edit, since in session.execute(query)]


def version_of_batch(session: Session, batch_id: int) -> int | None:
    return session.scalar(select(Version.number).where(Version.batch_id == batch_id))
