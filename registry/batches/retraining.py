"""Submitting an active edit again, with other settings of training or more guards: a new edit takes its place."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.base.digests import collapse
from registry.base.errors import InvalidRequest, NotFound, WrongState
from registry.batches.submitting import submit
from registry.batches.training import Training
from registry.collections import repository as collections
from registry.edits import repository
from registry.tables.collections import Collection
from registry.tables.edits import Batch, Edit


def retrain(session: Session, edit_id: int, training: Training, actor: Actor, reason: str) -> Batch:
    """A batch of the one edit, which waits for a decision as any other. Author and source stay the edit's.

    Raises NotFound, WrongState where the edit is not active, was erased or is being replaced, and what `submit` raises.
    """
    collection, edit = _free(session, edit_id)
    return _submitted(session, collection, edit, training, actor, reason)


def guard(session: Session, edit_id: int, prompts: Sequence[str], actor: Actor, reason: str) -> Batch:
    """A batch in which the edit has more guards: prompts that it leaves to the base model. Its block stays as it is.

    Raises as `retrain` does, and InvalidRequest where it has all of these guards already, or one is what it corrects.
    """
    collection, edit = _free(session, edit_id)
    known = {collapse(text) for text in edit.unchanged}
    added = [text for text in dict.fromkeys(prompts) if collapse(text) not in known]
    if not added:
        raise InvalidRequest(
            f"Edit {edit_id} has these guards already: {', '.join(map(repr, prompts[:3]))}.",
            "Give another prompt; `melo edit list COLLECTION --json` shows an edit's guards as `unchanged`.",
        )
    own = {collapse(text) for text in (edit.prompt, *edit.rephrases)}
    if mine := [text for text in added if collapse(text) in own]:
        raise InvalidRequest(
            f"{mine[0]!r} is what edit {edit_id} corrects, so it cannot leave it to the base model.",
            f"Retire the edit if that is meant: melo edit retire {collection.name} {edit_id} --reason …",
        )
    batch = repository.batch(session, edit.batch_id)
    assert batch is not None  # a foreign key
    training = Training(changes=batch.training)  # as it was trained: then its block can be kept
    return _submitted(session, collection, edit, training, actor, reason, unchanged=[*edit.unchanged, *added])


def _free(session: Session, edit_id: int) -> tuple[Collection, Edit]:
    """The edit and its collection, which is locked: two that begin at once must not both find the edit free."""
    found = repository.by_ids(session, [edit_id])
    if not found:
        raise NotFound(f"There is no edit {edit_id}.", "`melo edit list COLLECTION` shows those that exist.")
    collection = collections.lock(session, found[0].collection_id)
    _require_free(session, found[0])
    return collection, found[0]


def _submitted(
    session: Session, collection: Collection, edit: Edit, training: Training, actor: Actor, reason: str, **changes: Any
) -> Batch:
    """changes: what of the edit's fields is to be otherwise."""
    again = {
        "prompt": edit.prompt,
        "target": edit.target,
        "rephrases": edit.rephrases,
        "unchanged": edit.unchanged,
        "kind": edit.kind,
        "author": edit.author,
        "reason": reason,
        "source": edit.source,
        "replaces": edit.id,
    }
    report = submit(session, collection, [again | changes], actor, message=reason, training=training)
    assert report.batch is not None  # neither a dry run, nor with anything to skip
    return report.batch


def _require_free(session: Session, edit: Edit) -> None:
    """Raises WrongState."""
    if edit.erased_at is not None:
        raise WrongState(
            f"The content of edit {edit.id} was erased: there is nothing to train.", "Submit a new correction."
        )
    standing = repository.standing_by_id(session, edit.collection_id, [edit.id])
    if not any(each.active_since is not None for each in standing):
        raise WrongState(
            f"Edit {edit.id} does not act in the newest version, so there is nothing to train again.",
            "`melo edit list COLLECTION --active` shows those that do; submit a correction to have another one.",
        )
    successors = repository.replacing(session, edit.collection_id, [edit.id], pending=repository.PENDING)
    if successors:
        other = successors[0]
        raise WrongState(
            f"Edit {edit.id} is being replaced by edit {other.id} of batch {other.batch_id}, which is "
            f"{other.batch_state}.",
            f"Wait until it is applied, or reject or cancel batch {other.batch_id}.",
        )
