"""Checking erasures: what is empty was erased with an event, and what an event says is erased is empty."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from registry.audit.models import AuditEvent
from registry.edits.models import Edit
from registry.versions.models import Block, BlockEdit, Cluster, Point
from registry.vocabulary import Action

Checked = Iterator[tuple[str, list[str]]]  # a record, and what is wrong with it
_MANY = 2_000


def check_erasures(session: Session) -> Checked:
    """Each erased edit with its event, then whatever else is empty."""
    erasure = aliased(AuditEvent, select(AuditEvent).where(AuditEvent.action == Action.EDIT_ERASE).subquery())
    erased = aliased(Edit, select(Edit).where(Edit.erased_at.is_not(None)).subquery())
    query = (
        select(erased, erasure)
        .outerjoin(erasure, erasure.subject == func.concat("edit/", erased.id), full=True)
        .order_by(erased.id, erasure.seq)
    )
    for edit, event in session.execute(query.execution_options(yield_per=_MANY)):
        if edit is None:
            yield event.subject.replace("/", " "), [f"event {event.seq} says that it was erased, and it is not"]
        elif event is None:
            yield f"edit {edit.id}", ["its content is gone, and no event says that it was erased"]
        elif event.before != edit.digest:
            yield f"edit {edit.id}", ["its digest differs from the event of its erasure"]
        else:
            yield f"edit {edit.id}", []
    yield from _without_reason(session)


def _without_reason(session: Session) -> Checked:
    """Blocks, points and clusters that are empty although no edit that they belong to was erased."""
    gone = Edit.erased_at.is_not(None)
    of_block = select(Edit.id).join(BlockEdit, BlockEdit.edit_id == Edit.id).where(BlockEdit.block_id == Block.id, gone)
    of_point = select(Edit.id).where(Edit.id == Point.edit_id, gone)
    of_cluster = (
        select(Edit.id).join(Point, Point.edit_id == Edit.id).where(Point.id == func.any(Cluster.members), gone)
    )
    tables: list[tuple[str, Any, Any]] = [
        ("block", Block, of_block),
        ("point", Point, of_point),
        ("state of a cluster in row", Cluster, of_cluster),
    ]
    for name, table, owners in tables:
        query = select(table.id).where(table.erased_at.is_not(None), ~owners.exists()).order_by(table.id)
        for row_id in session.scalars(query):
            yield f"{name} {row_id}", ["its content is gone, and none of its edits was erased"]
