"""Creates collections, and builds their views."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.access.names import require_distinct
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import CollectionCalibrate, CollectionCreate
from registry.base.digests import canonical_json, settings_of, sha256_hex
from registry.base.errors import InvalidRequest, InvalidResult, NameTaken, NotFound
from registry.base.model_files import find_encoder, find_model, require_whole
from registry.base.vocabulary import Preflight, QueueState
from registry.collections import policy, repository
from registry.collections.calibration import require_calibration
from registry.collections.method import complete_settings, require_editable
from registry.collections.schemas import CollectionView, NewCollection
from registry.tables.collections import Calibration, Collection

HIDDEN = "hidden"  # the method's name for keys that are the base model's hidden states


def create(session: Session, new: NewCollection, actor: Actor) -> Collection:
    """Create a collection, with all settings of its method.

    Raises NameTaken, UnknownModel if model or encoder are not found here, or InvalidRequest if settings or calibration
    are invalid or the model cannot be edited.
    """
    if repository.by_name(session, new.name) is not None:
        raise _taken(new.name)
    method = complete_settings(new.method, new.preset)
    files = find_model(new.model)
    require_editable(new.model, files.config, method)
    require_whole(files)
    encoder = _encoder(new, method)
    # The first worker that uses the encoder writes its digest.
    encoder_files = files if encoder == HIDDEN else find_encoder(encoder)
    if new.calibration is not None:
        require_calibration(new.calibration, method, encoder_files.width)
    policy.require_enough(new.approvals_needed, new.approvers)
    require_distinct(session, new.approvers)
    policy.require_tried(new.left_alone_needed > 0, new.preflight)
    collection = Collection(
        name=new.name,
        model=new.model,
        model_digest=files.digest,
        model_files=files.sha256s,
        window=files.window,
        method=method,
        encoder=encoder,
        self_approval=new.self_approval,
        approvals_needed=new.approvals_needed,
        approvers=sorted(set(new.approvers)),
        preflight=new.preflight,
        left_alone_needed=new.left_alone_needed or None,
        created_by=actor.name,
    )
    session.add(collection)
    try:
        session.flush()
    except IntegrityError:  # created by someone else since the query above
        raise _taken(new.name) from None
    calibration = sha256_hex(new.calibration) if new.calibration is not None else None
    if new.calibration is not None:
        session.add(Calibration(collection_id=collection.id, data=new.calibration, sha256=calibration))
        session.flush()
    audit.record(
        session,
        CollectionCreate(model=new.model, encoder=encoder, calibration=calibration, **policy.of(collection).stored()),
        actor,
        f"collection/{new.name}",
        collection_id=collection.id,
        after=foundation_digest(collection),
    )
    return collection


def _encoder(new: NewCollection, method: dict[str, Any]) -> str:
    """Return the encoder's name, which is `hidden` if keys are the base model's own hidden states."""
    given = new.encoder if "encoder" in new.model_fields_set else None
    if method["key_encoder"] == HIDDEN:
        if given not in (None, HIDDEN):
            raise InvalidRequest(
                f"The encoder {given!r} would not be used: by the method's setting key_encoder, keys are the hidden "
                "states of the base model.",
                "Leave the encoder out, or set key_encoder to sentence.",
            )
        return HIDDEN
    if given == HIDDEN:
        raise InvalidRequest(
            "The encoder 'hidden' is the base model itself, but the method's setting key_encoder is "
            f"{method['key_encoder']}.",
            "Set key_encoder to hidden, or take the preset paper, and leave the encoder out.",
        )
    return new.encoder


def foundation_digest(collection: Collection) -> str:
    """Return one digest over what is fixed when a collection is created."""
    fixed: dict[str, Any] = {
        "name": collection.name,
        "model": collection.model,
        "model_digest": collection.model_digest,
        "window": collection.window,
        "method": settings_of(collection.method),
        "encoder": collection.encoder,
    }
    return sha256_hex(canonical_json(fixed))


def fix_keys(
    session: Session, collection_id: int, actor: Actor, encoder_digest: str, calibration: bytes | None
) -> bytes | None:
    """Fix the encoder and the whitening of a collection's keys, if that was not done yet; returns the whitening.

    The first worker that computes keys does it: what a preflight trains can then be applied as it is. Raises
    InvalidResult where another encoder was fixed.
    """
    collection = repository.lock(session, collection_id)
    if collection.encoder_digest not in (None, encoder_digest):
        raise InvalidResult(
            f"The encoder {collection.encoder} of this worker has the digest {encoder_digest}, but the keys of "
            f"{collection.name} were made with {collection.encoder_digest}.",
            "Install the same encoder that the first worker used.",
        )
    stored = repository.calibration(session, collection_id)
    fits = stored is None and calibration is not None
    if collection.encoder_digest is not None and not fits:
        return stored.data if stored else None
    collection.encoder_digest = encoder_digest
    if fits:
        assert calibration is not None
        stored = Calibration(collection_id=collection_id, data=calibration, sha256=sha256_hex(calibration))
        session.add(stored)
    session.flush()
    audit.record(
        session,
        CollectionCalibrate(encoder=encoder_digest, calibration=stored.sha256 if stored else None),
        actor,
        f"collection/{collection.name}",
        collection_id=collection_id,
        after=stored.sha256 if stored else None,
    )
    return stored.data if stored else None


def get(session: Session, name: str) -> Collection:
    """Return the collection. Raises NotFound."""
    collection = repository.by_name(session, name)
    if collection is None:
        raise missing(name)
    return collection


def among(session: Session, name: str, visible: frozenset[int] | None) -> frozenset[int]:
    """Return the id of the named collection, for filtering a list.

    visible: those that the caller may see, or None for all. Raises NotFound, in the same words for a collection that
    does not exist and one that the caller may not see.
    """
    collection = repository.by_name(session, name)
    if collection is None or (visible is not None and collection.id not in visible):
        raise missing(name)
    return frozenset({collection.id})


def view(session: Session, collection: Collection) -> CollectionView:
    return views(session, [collection])[0]


def page(
    session: Session, *, among: frozenset[int] | None, after: str | None = None, limit: int | None
) -> list[CollectionView]:
    """Return collections by name.

    among: only those with these ids. limit: None for all.
    """
    return views(session, repository.page_by_name(session, among=among, after=after, limit=limit))


def views(session: Session, found: Sequence[Collection]) -> list[CollectionView]:
    """Return the views of collections, with their newest version, active edits and aliases."""
    ids = [collection.id for collection in found]
    calibrations = repository.calibration_digests(session, ids)
    newest = repository.newest_versions(session, ids)
    aliases = repository.current_aliases(session, ids)
    return [
        CollectionView(
            id=each.id,
            name=each.name,
            model=each.model,
            model_digest=each.model_digest,
            model_files=each.model_files,
            window=each.window,
            method=each.method,
            encoder=each.encoder,
            encoder_digest=each.encoder_digest,
            calibration_sha256=calibrations.get(each.id),
            self_approval=each.self_approval,
            approvals_needed=each.approvals_needed,
            approvers=each.approvers,
            preflight=Preflight(each.preflight),
            left_alone_needed=each.left_alone_needed,
            preflight_limits=each.preflight_limits,
            log_share=each.log_share,
            log_text=each.log_text,
            log_days=each.log_days,
            queue=QueueState(each.queue),
            created_by=each.created_by,
            created_at=each.created_at,
            latest=newest.get(each.id, (0, 0))[0],
            active_edits=newest.get(each.id, (0, 0))[1],
            aliases={alias.name: alias.number for alias in aliases if alias.collection_id == each.id},
        )
        for each in found
    ]


def missing(name: str) -> NotFound:
    """Return the error for a collection that does not exist, or that the caller may not see."""
    return NotFound(
        f"There is no collection {name!r}.",
        "`melo collection list` shows those that exist; `melo collection create` makes one.",
    )


def _taken(name: str) -> NameTaken:
    return NameTaken(
        f"A collection {name!r} already exists.",
        "Choose another name, or use the existing collection.",
    )
