"""Training an active edit again, with other settings: as a new edit with the same content that takes its place."""

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.collections import repository as collections
from registry.edits import repository
from registry.edits.models import Batch, Edit
from registry.edits.submitting import submit
from registry.edits.training import Training
from registry.errors import NotFound, WrongState


def retrain(session: Session, edit_id: int, training: Training, actor: Actor, reason: str) -> Batch:
    """A batch of the one edit, which waits for a decision as any other. Author and source stay the edit's.

    Raises NotFound, WrongState where the edit is not active, was erased or is being replaced, and what `submit` raises.
    """
    found = repository.by_ids(session, [edit_id])
    if not found:
        raise NotFound(f"There is no edit {edit_id}.", "`melo edits list COLLECTION` shows those that exist.")
    edit = found[0]
    # Before the look at what stands: two that begin at once must not both find the edit free.
    collection = collections.lock(session, edit.collection_id)
    _require_free(session, edit)
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
    report = submit(session, collection, [again], actor, message=reason, training=training)
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
            "`melo edits list COLLECTION --active` shows those that do; submit a correction to have another one.",
        )
    successors = repository.replacing(session, edit.collection_id, [edit.id], pending=repository.PENDING)
    if successors:
        other = successors[0]
        raise WrongState(
            f"Edit {edit.id} is being replaced by edit {other.id} of batch {other.batch_id}, which is "
            f"{other.batch_state}.",
            f"Wait until it is applied, or reject or cancel batch {other.batch_id}.",
        )
