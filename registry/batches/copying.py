"""Copies a collection's active edits into a new collection, over another base model or with other settings."""

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.base.vocabulary import Preflight
from registry.batches.schemas import CollectionCopy
from registry.batches.submitting import HIDDEN, submit
from registry.collections import repository as collections
from registry.collections import service
from registry.collections.schemas import NewCollection
from registry.edits import repository
from registry.edits.records import as_submitted
from registry.edits.schemas import MOST_EDITS
from registry.tables.collections import Collection
from registry.tables.edits import Batch


def copy(session: Session, wanted: CollectionCopy, actor: Actor) -> tuple[Collection, Batch | None]:
    """Create the collection, and submit the source's active edits to it as one batch, which is decided on as any other.

    Settings and policy that are not given are the source's. Nothing trained is taken over. Returns no batch where the
    source has no active edit. Raises as creating a collection and submitting do; then neither exists.
    """
    source = service.get(session, wanted.source)
    encoder = wanted.encoder or (None if source.encoder == HIDDEN else source.encoder)
    given = {
        "name": wanted.name,
        "model": wanted.model or source.model,
        "method": {**source.method, **wanted.method},
        "self_approval": source.self_approval,
        "approvals_needed": source.approvals_needed,
        "approvers": source.approvers,
        "preflight": Preflight(source.preflight),
        "left_alone_needed": source.left_alone_needed or 0,
        **({"encoder": encoder} if encoder else {}),
    }
    made = service.create(session, NewCollection.model_validate(given), actor)
    _keep_keys(session, source, made, actor)
    newest = collections.newest_versions(session, [source.id]).get(source.id, (0, 0))[0]
    edits = repository.with_activity(session, source.id, batch_id=None, active=True, after=0, limit=MOST_EDITS + 1)
    if not edits:
        return made, None
    records = [as_submitted(edit) for edit, _ in edits]
    message = f"copy of {source.name}@{newest}"
    return made, submit(session, made, records, actor, message=message, source=f"{source.name}@{newest}").batch


def _keep_keys(session: Session, source: Collection, made: Collection, actor: Actor) -> None:
    """Take over the whitening of keys that are made in the same way, which may have been measured on own questions."""
    settings = [name for name in source.method if name.startswith("key_") or name == "whitened"]
    is_same = all(source.method[name] == made.method[name] for name in settings)
    stored = collections.calibration(session, source.id)
    if made.encoder == source.encoder != HIDDEN and is_same and stored and source.encoder_digest:
        service.fix_keys(session, made.id, actor, source.encoder_digest, stored.data)
