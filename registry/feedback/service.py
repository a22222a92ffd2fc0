"""Records what people say of answers, and makes corrections of it: batches that wait for approval as any other."""

from typing import Any

from sqlalchemy.orm import Session

from registry.access.caller import Caller
from registry.answers import service as answers
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import FeedbackGive
from registry.base.errors import InvalidEdits, InvalidRequest, NotFound, NotLogged, RegistryError, WrongState
from registry.base.vocabulary import BatchState, EditKind, OnConflict, Rating, Role
from registry.batches.submitting import submit
from registry.collections import repository as collections
from registry.collections import service as collection_names
from registry.feedback import repository
from registry.feedback.schemas import Draft, FeedbackView, GivenView, NewFeedback
from registry.tables.answers import Feedback, LoggedAnswer
from registry.tables.collections import Collection
from registry.tables.edits import Batch


def give(session: Session, given: NewFeedback, caller: Caller, request_id: str | None) -> GivenView:
    """Record feedback; a correction by an editor becomes a batch that waits for approval, if it can be submitted.

    Raises NotFound where the caller may not see the answer, or InvalidRequest.
    """
    if given.correction is not None and given.rating is not Rating.DOWN:
        raise InvalidRequest("A correction says that the answer was wrong.", "Send it with the rating `down`.")
    logged = _logged(session, given, caller)
    collection = _collection(session, given, logged, caller)
    actor = Actor(caller.actor, caller.role_in(collection.id) or Role.VIEWER, request_id)
    feedback = Feedback(
        response_id=given.response_id,
        choice=given.choice,
        collection_id=collection.id,
        version=logged.version if logged else None,
        edit_id=logged.edit_id if logged else None,
        kind=logged.kind if logged else EditKind.QA,
        rating=given.rating,
        comment=given.comment,
        correction=given.correction,
        prompt=given.prompt,
        given_by=actor.name,
    )
    session.add(feedback)
    session.flush()
    note = _drafted(session, feedback, logged, collection, actor)
    audit.record(
        session,
        FeedbackGive(
            response=feedback.response_id,
            rating=feedback.rating,
            version=feedback.version,
            edit=feedback.edit_id,
            batch=feedback.batch_id,
        ),
        actor,
        f"feedback/{feedback.id}",
        collection_id=collection.id,
    )
    return GivenView(**get(session, feedback.id).model_dump(), note=note)


def draft(session: Session, feedback_id: int, wanted: Draft, actor: Actor) -> FeedbackView:
    """Submit a correction made of feedback, as a batch that waits for approval.

    Raises NotFound, WrongState where it has a draft or is not a thumb down, InvalidRequest where nobody knows the
    question, and what a submission raises.
    """
    found = _found(session, feedback_id)
    collection = collections.lock(session, found.feedback.collection_id)  # first, as everywhere
    feedback = repository.lock(session, feedback_id)
    if feedback.batch_id is not None:
        raise WrongState(
            f"Feedback {feedback.id} became batch {feedback.batch_id}.", f"See `melo batch show {feedback.batch_id}`."
        )
    if feedback.erased_at is not None:
        raise WrongState(f"The text of feedback {feedback.id} was erased.", "Submit a correction: `melo edit add`.")
    if feedback.rating != Rating.DOWN:
        raise WrongState(f"Feedback {feedback.id} says that the answer was right.", "There is nothing to correct.")
    prompt = wanted.prompt or _prompt(feedback, found.logged)
    if prompt is None:
        raise InvalidRequest(
            f"Nobody knows the question of feedback {feedback.id}: it came without one, and the log has no text of it.",
            "Give it: `melo feedback draft ID --target TARGET --prompt PROMPT`.",
        )
    batch = _submit(session, collection, feedback, prompt, wanted.target, actor, wanted.replaces)
    feedback.batch_id = batch.id
    session.flush()
    return get(session, feedback_id)


def get(session: Session, feedback_id: int) -> FeedbackView:
    """Return feedback. Raises NotFound."""
    found = _found(session, feedback_id)
    return _view(found, collections.by_id(session, found.feedback.collection_id))


def page(
    session: Session, collection: Collection, caller: Caller, *, open_: bool, before: int | None, limit: int
) -> list[FeedbackView]:
    """Return feedback, newest first; to a viewer their own."""
    own = None if answers.reads_all(caller, collection.id) else caller.actor
    found = repository.page(session, collection.id, open_=open_, given_by=own, before=before, limit=limit)
    return [_view(each, collection) for each in found]


def _logged(session: Session, given: NewFeedback, caller: Caller) -> LoggedAnswer | None:
    """Return the answer from the log. Raises NotFound if it is not there, and no collection is named."""
    found = answers.visible(session, given.response_id, caller)
    if not found:
        if given.collection is None:
            missing = answers.not_logged(given.response_id)
            raise NotLogged(missing.detail, "Name the collection, and where you correct it also the prompt.")
        return None
    for each in found:
        if each.choice == given.choice:
            return each
    raise NotLogged(f"{given.response_id} has no choice {given.choice}.", f"It has {len(found)}, counted from 0.")


def _collection(session: Session, given: NewFeedback, logged: LoggedAnswer | None, caller: Caller) -> Collection:
    if logged is not None:
        return collections.by_id(session, logged.collection_id)
    assert given.collection is not None
    (found,) = collection_names.among(session, given.collection, caller.collections)
    return collections.by_id(session, found)


def _drafted(
    session: Session, feedback: Feedback, logged: LoggedAnswer | None, collection: Collection, actor: Actor
) -> str:
    """Make a draft of a correction where that is possible. Returns what became of it, in words."""
    if feedback.correction is None:
        return ""
    if not actor.role.covers(Role.EDITOR):
        return f"The correction is recorded; an {Role.EDITOR} can make a draft of it (`melo feedback draft`)."
    prompt = _prompt(feedback, logged)
    if prompt is None:
        return "The correction is recorded; a draft needs the prompt, of which the log keeps no text."
    try:
        with session.begin_nested():
            batch = _submit(session, collection, feedback, prompt, feedback.correction, actor)
    except RegistryError as error:
        told = error.problems[0].detail if isinstance(error, InvalidEdits) and error.problems else error.detail
        return f"The correction is recorded; it could not be submitted: {told}"
    feedback.batch_id = batch.id
    session.flush()
    return f"Batch {batch.id} waits for approval."


def _submit(
    session: Session,
    collection: Collection,
    feedback: Feedback,
    prompt: str,
    target: str,
    actor: Actor,
    replaces: int | None = None,
) -> Batch:
    source = f"feedback on {feedback.response_id}"
    record: dict[str, Any] = {"prompt": prompt, "target": target, "kind": feedback.kind, "source": source}
    record["replaces"] = replaces
    report = submit(
        session, collection, [record], actor, message=f"feedback {feedback.id}", source=source,
        on_conflict=OnConflict.REPLACE,
    )  # fmt: skip
    assert report.batch is not None
    return report.batch


def _prompt(feedback: Feedback, logged: LoggedAnswer | None) -> str | None:
    return feedback.prompt or (logged.question if logged else None)


def _found(session: Session, feedback_id: int) -> repository.Found:
    found = repository.get(session, feedback_id)
    if found is None:
        raise NotFound(f"There is no feedback {feedback_id}.", "`melo feedback list COLLECTION` shows it.")
    return found


def _view(found: repository.Found, collection: Collection) -> FeedbackView:
    feedback, logged = found.feedback, found.logged
    own = {name: getattr(feedback, name) for name in FeedbackView.model_fields if hasattr(feedback, name)}
    return FeedbackView(
        **own,
        collection=collection.name,
        question=logged.question if logged else None,
        answer=logged.answer if logged else None,
        batch_state=BatchState(found.batch_state) if found.batch_state else None,
    )
