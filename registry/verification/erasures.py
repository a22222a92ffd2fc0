"""Verifying erasures: what is empty was erased with an event, and what an event says is erased is empty."""

from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session, aliased

from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent
from registry.tables.edits import Edit
from registry.tables.versions import Block, BlockEdit, Cluster, Point
from registry.verification.verified import Verified, is_just_before

_MANY = 2_000


def verify_erasures(session: Session) -> Verified:
    """Verify each erased edit with its event, then everything else that is empty."""
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
        elif not is_just_before(edit.erased_at, event.at):
            yield f"edit {edit.id}", ["the time when it was erased differs from its event"]
        else:
            yield f"edit {edit.id}", []
    yield from _without_reason(session)
    yield from _left_over(session)
    yield from _of_no_edit(session)


def _without_reason(session: Session) -> Verified:
    """Yield blocks, points and clusters that are empty although none of their edits was erased at that moment."""
    of_block = (
        select(Edit.id)
        .join(BlockEdit, BlockEdit.edit_id == Edit.id)
        .where(BlockEdit.block_id == Block.id, Edit.erased_at == Block.erased_at)
    )
    of_point = select(Edit.id).where(Edit.id == Point.edit_id, Edit.erased_at == Point.erased_at)
    of_cluster = (
        select(Edit.id)
        .join(Point, Point.edit_id == Edit.id)
        .where(Point.id == func.any(Cluster.members), Edit.erased_at == Cluster.erased_at)
    )
    tables: list[tuple[str, Any, Any]] = [
        ("block", Block, of_block),
        ("point", Point, of_point),
        ("state of a cluster in row", Cluster, of_cluster),
    ]
    for name, table, owners in tables:
        query = select(table.id).where(table.erased_at.is_not(None), ~owners.exists()).order_by(table.id)
        for row_id in session.scalars(query):
            yield f"{name} {row_id}", ["its content is gone, and none of its edits was erased then"]


def _left_over(session: Session) -> Verified:
    """Yield erased edits that still have a key, a block, or a cluster's centre or label."""
    key = select(Point.edit_id).where(or_(Point.key.is_not(None), Point.erased_at.is_(None)))
    bytes_left = or_(Block.erased_at.is_(None), func.octet_length(Block.data) > 0)
    led_to = select(Point.edit_id).join(Block, Block.id == Point.block_id).where(bytes_left)
    trained = select(BlockEdit.edit_id).join(Block, Block.id == BlockEdit.block_id).where(bytes_left)
    centre = (
        select(Point.edit_id)
        .join(Cluster, Cluster.members.contains(array([Point.id])))
        .where(or_(Cluster.erased_at.is_(None), Cluster.centre.is_not(None), func.cardinality(Cluster.label) > 0))
    )
    traces = [
        ("a key", [key.where(Point.edit_id == Edit.id)]),
        ("a block", [led_to.where(Point.edit_id == Edit.id), trained.where(BlockEdit.edit_id == Edit.id)]),
        ("a cluster's centre or label", [centre.where(Point.edit_id == Edit.id)]),
    ]
    for name, found in traces:
        query = select(Edit.id).where(Edit.erased_at.is_not(None), or_(*(each.exists() for each in found)))
        for edit_id in session.scalars(query.order_by(Edit.id)):
            yield f"edit {edit_id}", [f"it was erased, but {name} of it is still there"]


def _of_no_edit(session: Session) -> Verified:
    """Yield points that lead to a block that was not trained for their edit: an erasure would miss them."""
    same = and_(BlockEdit.block_id == Point.block_id, BlockEdit.edit_id == Point.edit_id)
    query = select(Point.id).outerjoin(BlockEdit, same).where(BlockEdit.block_id.is_(None)).order_by(Point.id)
    for point_id in session.scalars(query):
        yield f"point {point_id}", ["it leads to a block that was not trained for its edit"]
