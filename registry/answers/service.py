"""Reads the log of answers: explains one, lists a collection's, and counts which edits gave them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from registry.access.caller import Caller
from registry.answers import repository
from registry.answers.explaining import reason
from registry.answers.remedies import remedy
from registry.answers.schemas import (
    ActingEdit,
    AnswerView,
    ConsideredEdit,
    EditUsage,
    ExplainedAnswer,
    ExplainedResponse,
    UsageView,
)
from registry.base.errors import NotLogged
from registry.base.vocabulary import Rating, Role
from registry.batches import service as batches
from registry.collections import repository as collections
from registry.edits import repository as edits
from registry.edits.schemas import ApprovalView, EditView
from registry.tables.answers import LoggedAnswer
from registry.tables.collections import Collection
from registry.tables.edits import Edit


def visible(session: Session, response_id: str, caller: Caller) -> Sequence[LoggedAnswer]:
    """Return a response's answers if the caller may read them: an editor all, a viewer those to own questions."""
    return [each for each in repository.of_response(session, response_id) if _may_read(each, caller)]


def explain(session: Session, response_id: str, caller: Caller) -> ExplainedResponse:
    """Return a response's answers, each with the edit that gave it or the reason why none did.

    Raises NotFound, in the same words for a response that is not logged and one that the caller may not read.
    """
    found = visible(session, response_id, caller)
    if not found:
        raise not_logged(response_id)
    collection = collections.by_id(session, found[0].collection_id)
    named = {edit for each in found for edit in (each.edit_id, *(near["edit"] for near in each.considered)) if edit}
    known = {edit.id: edit for edit in edits.by_ids(session, sorted(named))}
    explained = [_explained(session, each, collection, known) for each in found]
    return ExplainedResponse(response_id=response_id, answers=explained)


def page(
    session: Session,
    collection: Collection,
    caller: Caller,
    *,
    edit_id: int | None,
    since: datetime | None,
    before: int | None,
    limit: int,
) -> list[tuple[int, AnswerView]]:
    """Return a collection's answers that the caller may read, newest first, each with the id of its row."""
    own = None if reads_all(caller, collection.id) else caller.actor
    rows = repository.page(
        session, collection.id, edit_id=edit_id, since=since, asked_by=own, before=before, limit=limit
    )
    return [(each.id, _view(each, collection)) for each in rows]


def usage(session: Session, collection: Collection) -> UsageView:
    """Return how many answers the collection's log holds."""
    since, answers, by_edits, acting = repository.totals(session, collection.id)
    return UsageView(
        log_share=collection.log_share,
        log_days=collection.log_days,
        since=since,
        answers=answers,
        by_edits=by_edits,
        edits=acting,
    )


def usage_by_edit(
    session: Session, collection: Collection, *, active: bool | None, after: int, limit: int
) -> list[EditUsage]:
    """Return how often each edit answered, in the order of their ids; also those that never did."""
    found = batches.edits_of(session, collection, active=active, after=after, limit=limit)
    ids = [edit.id for edit in found]
    counted, rated = repository.counted(session, ids), repository.ratings(session, ids)
    return [
        EditUsage(
            edit_id=edit.id,
            prompt=edit.prompt,
            target=edit.target,
            active_since=edit.active_since,
            answers=counted[edit.id][0] if edit.id in counted else 0,
            first_at=counted[edit.id][1] if edit.id in counted else None,
            last_at=counted[edit.id][2] if edit.id in counted else None,
            thumbs_up=rated.get((edit.id, Rating.UP), 0),
            thumbs_down=rated.get((edit.id, Rating.DOWN), 0),
        )
        for edit in found
    ]


def reads_all(caller: Caller, collection_id: int) -> bool:
    """Return whether the caller may read everybody's questions, as those who correct the answers must."""
    role = caller.role_in(collection_id)
    return role is not None and role.covers(Role.EDITOR)


def not_logged(response_id: str) -> NotLogged:
    return NotLogged(
        f"The log has no answer {response_id!r}.",
        "A collection logs what its policy says (`melo collection show COLLECTION`), for so many days; a viewer sees "
        "the answers to their own questions.",
    )


def _may_read(answer: LoggedAnswer, caller: Caller) -> bool:
    if caller.role_in(answer.collection_id) is None:
        return False
    return answer.asked_by == caller.actor or reads_all(caller, answer.collection_id)


def _explained(
    session: Session, answer: LoggedAnswer, collection: Collection, known: dict[int, Edit]
) -> ExplainedAnswer:
    acting = known.get(answer.edit_id) if answer.edit_id is not None else None
    first = answer.considered[0] if answer.considered and acting is None and answer.version else None
    return ExplainedAnswer(
        **_view(answer, collection).model_dump(),
        why=reason(answer, collection.method.get("threshold")),
        remedy=None if first is None else remedy(collection.name, first["edit"], covers=first["covers"]),
        edit=_acting(session, acting) if acting else None,
        considered=[
            ConsideredEdit(**each, prompt=known[each["edit"]].prompt, target=known[each["edit"]].target)
            for each in answer.considered
        ],
    )


def _acting(session: Session, edit: Edit) -> ActingEdit:
    return ActingEdit(
        **EditView.model_validate(edit).model_dump(),
        submitted_by=repository.submitters(session, [edit.batch_id])[edit.batch_id],
        approvals=[ApprovalView.model_validate(each) for each in edits.approvals(session, edit.batch_id)],
    )


def _view(answer: LoggedAnswer, collection: Collection) -> AnswerView:
    fields = {name: getattr(answer, name) for name in AnswerView.model_fields if name != "collection"}
    return AnswerView(collection=collection.name, **fields)
