"""Queries on feedback, with the question and the answer that the log keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, and_, select
from sqlalchemy.orm import Session

from registry.tables.answers import Feedback, LoggedAnswer
from registry.tables.edits import Batch


@dataclass(frozen=True)
class Found:
    """Feedback, the answer that it is on, if that is logged, and the state of its draft."""

    feedback: Feedback
    logged: LoggedAnswer | None
    batch_state: str | None


def _query() -> Select[Feedback, LoggedAnswer, str]:
    logged = and_(LoggedAnswer.response_id == Feedback.response_id, LoggedAnswer.choice == Feedback.choice)
    return select(Feedback, LoggedAnswer, Batch.state).outerjoin(LoggedAnswer, logged).outerjoin(Batch)


def get(session: Session, feedback_id: int) -> Found | None:
    row = session.execute(_query().where(Feedback.id == feedback_id)).one_or_none()
    return None if row is None else Found(*row)


def lock(session: Session, feedback_id: int) -> Feedback:
    """Return feedback as earlier holders of the lock left it, and make others wait."""
    query = select(Feedback).where(Feedback.id == feedback_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def page(
    session: Session,
    collection_id: int,
    *,
    open_: bool,
    given_by: str | None,
    before: int | None,
    limit: int,
) -> Sequence[Found]:
    """Return feedback older than row `before`, newest first; open_: only thumbs-down without a draft."""
    query = _query().where(Feedback.collection_id == collection_id)
    if open_:
        query = query.where(Feedback.rating == "down", Feedback.batch_id.is_(None))
    if given_by is not None:
        query = query.where(Feedback.given_by == given_by)
    if before is not None:
        query = query.where(Feedback.id < before)
    return [Found(*row) for row in session.execute(query.order_by(Feedback.id.desc()).limit(limit))]
