"""Queries on the log of answers, and on the feedback on them as far as the log's policy covers it."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from registry.tables.answers import Feedback, LoggedAnswer
from registry.tables.collections import Collection
from registry.tables.edits import Batch

if TYPE_CHECKING:
    from registry.answers.keeping import Answered


def log_policies(session: Session) -> list[tuple[int, float, bool]]:
    """Return the collections that log: id, share, and whether with text."""
    query = select(Collection.id, Collection.log_share, Collection.log_text).where(Collection.log_share > 0)
    return [(id, share, text) for id, share, text in session.execute(query)]


def add(session: Session, answers: Sequence["Answered"]) -> None:
    """Insert answers; one that is there already stays as it is."""
    rows = [
        {**asdict(each), "considered": [found.model_dump(mode="json") for found in each.considered]} for each in answers
    ]
    if rows:
        session.execute(insert(LoggedAnswer).on_conflict_do_nothing(), rows)


def of_response(session: Session, response_id: str) -> Sequence[LoggedAnswer]:
    """Return the answers of a response, in the order of its choices."""
    query = select(LoggedAnswer).where(LoggedAnswer.response_id == response_id).order_by(LoggedAnswer.choice)
    return session.scalars(query).all()


def page(
    session: Session,
    collection_id: int,
    *,
    edit_id: int | None,
    since: datetime | None,
    asked_by: str | None,
    before: int | None,
    limit: int,
) -> Sequence[LoggedAnswer]:
    """Return a collection's answers older than row `before`, newest first."""
    query = select(LoggedAnswer).where(LoggedAnswer.collection_id == collection_id)
    if edit_id is not None:
        query = query.where(LoggedAnswer.edit_id == edit_id)
    if since is not None:
        query = query.where(LoggedAnswer.asked_at >= since)
    if asked_by is not None:
        query = query.where(LoggedAnswer.asked_by == asked_by)
    if before is not None:
        query = query.where(LoggedAnswer.id < before)
    return session.scalars(query.order_by(LoggedAnswer.id.desc()).limit(limit)).all()


def counted(session: Session, edit_ids: Sequence[int]) -> dict[int, tuple[int, datetime, datetime]]:
    """Return, by edit, how many answers it gave, and when the first and the last."""
    query = (
        select(
            LoggedAnswer.edit_id,
            func.count(),
            func.min(LoggedAnswer.asked_at),
            func.max(LoggedAnswer.asked_at),
        )
        .where(LoggedAnswer.edit_id.in_(edit_ids))
        .group_by(LoggedAnswer.edit_id)
    )
    return {edit: (count, first, last) for edit, count, first, last in session.execute(query) if edit is not None}


def ratings(session: Session, edit_ids: Sequence[int]) -> dict[tuple[int, str], int]:
    """Return how often an edit's answers were rated, by edit and rating."""
    query = (
        select(Feedback.edit_id, Feedback.rating, func.count())
        .where(Feedback.edit_id.in_(edit_ids))
        .group_by(Feedback.edit_id, Feedback.rating)
    )
    return {(edit, rating): count for edit, rating, count in session.execute(query) if edit is not None}


def totals(session: Session, collection_id: int) -> tuple[datetime | None, int, int, int]:
    """Return the time of the oldest answer, and the counts: answers, those by edits, and edits that gave them."""
    query = select(
        func.min(LoggedAnswer.asked_at),
        func.count(),
        func.count(LoggedAnswer.edit_id),
        func.count(LoggedAnswer.edit_id.distinct()),
    ).where(LoggedAnswer.collection_id == collection_id)
    since, answers, by_edits, edits = session.execute(query).one()
    return since, answers, by_edits, edits


def submitters(session: Session, batch_ids: Sequence[int]) -> dict[int, str]:
    return dict(session.execute(select(Batch.id, Batch.submitted_by).where(Batch.id.in_(batch_ids))).all())


def delete_old(session: Session, most: int) -> int:
    """Delete rows that are older than their collection's policy says, at most so many of each table."""
    gone = 0
    tables: list[tuple[Any, Any]] = [(LoggedAnswer, LoggedAnswer.asked_at), (Feedback, Feedback.given_at)]
    for table, moment in tables:
        old = (
            select(table.id)
            .join(Collection, Collection.id == table.collection_id)
            .where(moment < func.now() - func.make_interval(0, 0, 0, Collection.log_days))
            .limit(most)
        )
        done = session.execute(delete(table).where(table.id.in_(old)).returning(table.id))
        gone += len(done.all())
    return gone
