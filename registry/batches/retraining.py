"""Resubmits an active edit with other training settings or more guards, as a new edit that replaces it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.base.digests import comparable
from registry.base.errors import InvalidRequest, NotFound, WrongState
from registry.batches.submitting import submit
from registry.batches.training import Training
from registry.collections import repository as collections
from registry.edits import repository
from registry.edits.records import as_submitted
from registry.tables.collections import Collection
from registry.tables.edits import Batch, Edit


def retrain(session: Session, edit_id: int, training: Training, actor: Actor, reason: str) -> Batch:
    """Submit a batch of the one edit, which waits for a decision like any other. Author and source stay the edit's.

    Raises NotFound, WrongState if the edit is not active, was erased or is being replaced, and what `submit` raises.
    """
    collection, edit = _free(session, edit_id)
    return _submitted(session, collection, edit, training, actor, reason)


def guard(session: Session, edit_id: int, prompts: Sequence[str], actor: Actor, reason: str) -> Batch:
    """Submit a batch in which the edit has more guards: prompts that it leaves to the base model. Its block is kept.

    Raises as `retrain` does, and InvalidRequest if the edit has all of these guards already, or if one of them is a
    prompt that it corrects.
    """
    collection, edit = _free(session, edit_id)
    known = {comparable(text) for text in edit.unchanged}
    added = [text for text in dict.fromkeys(prompts) if comparable(text) not in known]
    if not added:
        raise InvalidRequest(
            f"Edit {edit_id} already has these guards: {', '.join(map(repr, prompts[:3]))}.",
            "Give another prompt; `melo guard list {collection.name}` shows them.",
        )
    own = {comparable(text) for text in (edit.prompt, *edit.rephrases)}
    if mine := [text for text in added if comparable(text) in own]:
        raise InvalidRequest(
            f"{mine[0]!r} is what edit {edit_id} corrects, so it cannot leave it to the base model.",
            f"If that is intended, retire the edit: melo edit retire {collection.name} {edit_id} --reason …",
        )
    batch = repository.batch(session, edit.batch_id)
    assert batch is not None  # a foreign key
    training = Training(changes=batch.training)  # as it was trained, so that its block can be kept
    return _submitted(session, collection, edit, training, actor, reason, unchanged=[*edit.unchanged, *added])


def _free(session: Session, edit_id: int) -> tuple[Collection, Edit]:
    """Return the edit and its collection, locked: two requests at once must not both find the edit free."""
    found = repository.by_ids(session, [edit_id])
    if not found:
        raise NotFound(f"There is no edit {edit_id}.", "`melo edit list COLLECTION` shows those that exist.")
    collection = collections.lock(session, found[0].collection_id)
    _require_free(session, found[0])
    return collection, found[0]


def _submitted(
    session: Session, collection: Collection, edit: Edit, training: Training, actor: Actor, reason: str, **changes: Any
) -> Batch:
    """Submit the edit again.

    changes: the fields of the edit that are to differ.
    """
    again = as_submitted(edit) | {"reason": reason, "replaces": edit.id} | changes
    report = submit(session, collection, [again], actor, message=reason, training=training)
    assert report.batch is not None  # not a dry run, and nothing to skip
    return report.batch


def _require_free(session: Session, edit: Edit) -> None:
    """Raise WrongState if the edit was erased, is not active or is being replaced."""
    if edit.erased_at is not None:
        raise WrongState(
            f"The content of edit {edit.id} was erased: there is nothing to train.", "Submit a new correction."
        )
    standing = repository.standing_by_id(session, edit.collection_id, [edit.id])
    if not any(each.active_since is not None for each in standing):
        raise WrongState(
            f"Edit {edit.id} is not active in the newest version, so it cannot be trained again.",
            "`melo edit list COLLECTION --active` shows those that are; otherwise submit a new correction.",
        )
    successors = repository.replacing(session, edit.collection_id, [edit.id], pending=repository.PENDING)
    if successors:
        other = successors[0]
        raise WrongState(
            f"Edit {edit.id} is being replaced by edit {other.id} of batch {other.batch_id}, which is "
            f"{other.batch_state}.",
            f"Wait until it is applied, or reject or cancel batch {other.batch_id}.",
        )
