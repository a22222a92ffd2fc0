"""Queries of an erasure: finding what belongs to an edit, and emptying it."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, Select, Text, delete, func, literal, or_, select, union, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.sql import Subquery

from registry.base.vocabulary import JobState
from registry.tables.answers import Feedback, LoggedAnswer
from registry.tables.edits import Batch, Edit
from registry.tables.idempotency import KeptAnswer
from registry.tables.jobs import Job
from registry.tables.orm import in_parts
from registry.tables.versions import Alias, Block, BlockEdit, Cluster, Point

Texts = LoggedAnswer | Feedback  # a row whose text an erasure removes


def collections_of(session: Session, edit_ids: Sequence[int]) -> list[int]:
    """Return the ids of the edits' collections, in order."""
    found: set[int] = set()
    for part in in_parts(edit_ids):
        found.update(session.scalars(select(Edit.collection_id).where(Edit.id.in_(part)).distinct()))
    return sorted(found)


def edits_now(session: Session, edit_ids: Sequence[int]) -> list[Edit]:
    """Return the edits in the order of their ids, as previous holders of the locks left them."""
    found: list[Edit] = []
    for part in in_parts(sorted(set(edit_ids))):
        query = select(Edit).where(Edit.id.in_(part)).order_by(Edit.id)
        found += session.scalars(query.execution_options(populate_existing=True))
    return found


def batches_of(session: Session, edit_ids: Sequence[int]) -> Sequence[Batch]:
    """Return the edits' batches, locked until the transaction ends."""
    ids = select(Edit.batch_id).where(Edit.id.in_(edit_ids))
    query = select(Batch).where(Batch.id.in_(ids)).order_by(Batch.id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def live_jobs_of(session: Session, batch_ids: Sequence[int]) -> Sequence[Job]:
    query = select(Job).where(Job.batch_id.in_(batch_ids), Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
    return session.scalars(query.order_by(Job.id).execution_options(populate_existing=True)).all()


def running_job(session: Session, collection_id: int) -> int | None:
    """Return the first job of a collection that a worker has taken and could still finish, even with no lease left."""
    query = select(Job.id).where(Job.collection_id == collection_id, Job.state == JobState.RUNNING)
    return session.scalar(query.order_by(Job.id).limit(1))


def blocks_of(session: Session, edit_ids: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    """Return, by edit id, the blocks trained for the edit, in an applied version or not, with their SHA-256."""
    led = _trained_for()
    query = (
        select(led.c.edit_id, Block.id, Block.sha256)
        .join(Block, Block.id == led.c.block_id)
        .where(led.c.edit_id.in_(edit_ids))
        .order_by(Block.id)
    )
    return _by_edit(session, query)


def _trained_for() -> Subquery:
    """Return the pairs of block and edit that belong together: as recorded with the block, or linked by a point."""
    return union(select(BlockEdit.block_id, BlockEdit.edit_id), select(Point.block_id, Point.edit_id)).subquery()


def companions(session: Session, block_ids: Sequence[int], edit_ids: Sequence[int]) -> Sequence[int]:
    """Return other edits that share one of the blocks."""
    led = _trained_for()
    query = select(led.c.edit_id).where(led.c.block_id.in_(block_ids), led.c.edit_id.not_in(edit_ids))
    return session.scalars(query.distinct().order_by(led.c.edit_id)).all()


def points_of(session: Session, edit_ids: Sequence[int]) -> dict[int, list[tuple[int, Any]]]:
    """Return, by edit id, the edit's points with their keys."""
    return _by_edit(
        session, select(Point.edit_id, Point.id, Point.key).where(Point.edit_id.in_(edit_ids)).order_by(Point.id)
    )


def clusters_with(session: Session, point_ids: Sequence[int]) -> Sequence[tuple[int, str, list[int]]]:
    """Return every state of a cluster that has one of the points: its row's id, digest and members."""
    found: dict[int, tuple[int, str, list[int]]] = {}
    for part in in_parts(point_ids):
        query = select(Cluster.id, Cluster.digest, Cluster.members).where(Cluster.members.overlap(list(part)))
        found |= {row.id: (row.id, row.digest, row.members) for row in session.execute(query)}
    return [found[row_id] for row_id in sorted(found)]


def aliases_at(session: Session, collection_id: int, numbers: Sequence[int]) -> Sequence[Alias]:
    """Return the aliases that point at one of the versions now, also as their canary or shadow."""
    query = select(Alias).where(Alias.collection_id == collection_id, Alias.replaced_at.is_(None))
    wanted = set(numbers)
    return [alias for alias in session.scalars(query.order_by(Alias.name)) if wanted & {alias.number, alias.second}]


def empty_edits(session: Session, edit_ids: Sequence[int]) -> None:
    nothing: dict[str, Any] = {"prompt": "", "target": "", "alternatives": [], "rephrases": [], "unchanged": []}
    nothing |= {"author": "", "reason": "", "source": ""}
    _empty(session, Edit, edit_ids, nothing)


def empty_points(session: Session, point_ids: Sequence[int]) -> None:
    _empty(session, Point, point_ids, {"key": None})


def empty_blocks(session: Session, block_ids: Sequence[int]) -> None:
    _empty(session, Block, block_ids, {"data": b""})


def empty_clusters(session: Session, cluster_ids: Sequence[int]) -> None:
    _empty(session, Cluster, cluster_ids, {"centre": None, "label": []})


def _empty(session: Session, table: Any, ids: Sequence[int], nothing: dict[str, Any]) -> None:
    for part in in_parts(ids):
        session.execute(
            update(table)
            .where(table.id.in_(part), table.erased_at.is_(None))
            .values(erased_at=func.now(), **nothing)
            .execution_options(synchronize_session=False)
        )


def jobs_that_tell(session: Session, collection_id: int) -> Iterator[Job]:
    """Yield jobs of a collection that hold a report, progress or an error."""
    query = select(Job).where(
        Job.collection_id == collection_id,
        or_(Job.report.is_not(None), Job.progress.is_not(None), Job.error.is_not(None)),
    )
    yield from session.scalars(query.order_by(Job.id).execution_options(yield_per=50))


def forget_answers(session: Session, quotes: Sequence[str]) -> None:
    """Delete answers stored for repeated requests if they quote one of the texts."""
    needles = [json.dumps(quote, ensure_ascii=False)[1:-1].encode() for quote in quotes]
    needle = func.unnest(literal(needles, ARRAY(LargeBinary))).column_valued("needle")
    found = select(needle).where(func.position(needle.op("IN")(KeptAnswer.body)) > 0).exists()
    session.execute(delete(KeptAnswer).where(found).execution_options(synchronize_session=False))


def texts_on(session: Session, collection_id: int, edit_ids: Sequence[int], words: Sequence[str]) -> list[Texts]:
    """Return logged answers and feedback with a text that names one of the edits, was near one, or holds such words."""
    near = [LoggedAnswer.considered.contains([{"edit": edit}]) for edit in edit_ids]
    drafts = select(Edit.batch_id).where(Edit.id.in_(edit_ids))
    answered = or_(LoggedAnswer.edit_id.in_(edit_ids), *near, _says(_logged_text(), words))
    said = or_(Feedback.edit_id.in_(edit_ids), Feedback.batch_id.in_(drafts), _says(_feedback_text(), words))
    return _with_text(
        session,
        select(LoggedAnswer).where(LoggedAnswer.collection_id == collection_id, answered),
        select(Feedback).where(Feedback.collection_id == collection_id, said),
        of_people=False,
    )


def texts_of_person(session: Session, name: str) -> list[Texts]:
    """Return logged answers and feedback that somebody of that name gave rise to, or that mention it."""
    pattern = f"%{_literally(name)}%"
    return _with_text(
        session,
        select(LoggedAnswer).where(or_(LoggedAnswer.asked_by == name, _logged_text().ilike(pattern))),
        select(Feedback).where(or_(Feedback.given_by == name, _feedback_text().ilike(pattern))),
        of_people=True,
    )


def _with_text(
    session: Session, logged: Select[LoggedAnswer], said: Select[Feedback], *, of_people: bool
) -> list[Texts]:
    """Return the rows that were not erased yet; of_people: also those that hold nothing but a person's name."""
    logged, said = logged.where(LoggedAnswer.erased_at.is_(None)), said.where(Feedback.erased_at.is_(None))
    if not of_people:
        logged = logged.where(LoggedAnswer.question.is_not(None))
    return [
        *session.scalars(logged.order_by(LoggedAnswer.id)),
        *session.scalars(said.order_by(Feedback.id)),
    ]


def empty_texts(session: Session, rows: Sequence[Texts]) -> None:
    """Empty the texts of logged answers and of feedback, and the names of those who gave rise to them."""
    answers = [row.id for row in rows if isinstance(row, LoggedAnswer)]
    feedback = [row.id for row in rows if isinstance(row, Feedback)]
    _empty(session, LoggedAnswer, answers, {"question": None, "answer": None, "asked_by": ""})
    _empty(session, Feedback, feedback, {"comment": "", "correction": None, "prompt": None, "given_by": ""})


def _logged_text() -> ColumnElement[str]:
    return func.concat_ws("\n", LoggedAnswer.question, LoggedAnswer.answer)


def _feedback_text() -> ColumnElement[str]:
    return func.concat_ws("\n", Feedback.comment, Feedback.correction, Feedback.prompt)


def _says(text: ColumnElement[str], words: Sequence[str]) -> ColumnElement[bool]:
    """Test whether a text holds one of these as whole words, in whatever case."""
    patterns = [rf"(?<!\w){re.escape(each.strip())}(?!\w)" for each in words]
    return text.op("~*", is_comparison=True)(func.any(literal(patterns, ARRAY(Text))))


def _literally(text: str) -> str:
    """Return a text as a pattern of LIKE that matches nothing else."""
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def by_person(session: Session, name: str, *, after: int, limit: int) -> Sequence[Edit]:
    """Return edits that were written by somebody of that name, or that mention it."""
    pattern = _literally(name)
    mentions = [
        func.concat_ws("\n", Edit.prompt, Edit.target, Edit.reason, Edit.source).ilike(f"%{pattern}%"),
        func.array_to_string(Edit.alternatives + Edit.rephrases + Edit.unchanged, "\n").ilike(f"%{pattern}%"),
    ]
    query = select(Edit).where(Edit.id > after, or_(Edit.author == name, *mentions))
    return session.scalars(query.order_by(Edit.id).limit(limit)).all()


def _by_edit(session: Session, query: Select[*tuple[Any, ...]]) -> dict[int, list[tuple[int, Any]]]:
    found: dict[int, list[tuple[int, Any]]] = {}
    for edit_id, row_id, content in session.execute(query):
        found.setdefault(edit_id, []).append((row_id, content))
    return found
