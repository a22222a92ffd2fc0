"""Creating collections, and reading them as the API shows them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.base_models import find_encoder, find_model
from registry.collections import repository
from registry.collections.calibration import require_calibration
from registry.collections.method import complete_settings
from registry.collections.models import Calibration, Collection
from registry.collections.schemas import CollectionView, NewCollection
from registry.digests import canonical_json, settings_of, sha256_hex
from registry.errors import InvalidRequest, NameTaken, NotFound
from registry.vocabulary import Action

HIDDEN = "hidden"  # as the method calls keys that are the base model's hidden states


def create(session: Session, new: NewCollection, actor: Actor) -> Collection:
    """A new line of versions, with all settings of its method.

    Raises NameTaken, UnknownModel where model or encoder are not found here, or InvalidRequest where settings or
    calibration are not such.
    """
    if repository.by_name(session, new.name) is not None:
        raise _taken(new.name)
    method = complete_settings(new.method, new.preset)
    files = find_model(new.model)
    encoder = _encoder(new, method)
    # The encoder's digest is written by the first worker that used it.
    encoder_files = files if encoder == HIDDEN else find_encoder(encoder)
    if new.calibration is not None:
        require_calibration(new.calibration, method, encoder_files.width)
    collection = Collection(
        name=new.name,
        model=new.model,
        model_digest=files.digest,
        window=files.window,
        method=method,
        encoder=encoder,
        self_approval=new.self_approval,
        created_by=actor.name,
    )
    session.add(collection)
    try:
        session.flush()
    except IntegrityError:  # created by someone else since the look above
        raise _taken(new.name) from None
    details: dict[str, Any] = {"model": new.model, "encoder": encoder, "self_approval": new.self_approval}
    if new.calibration is not None:
        details["calibration"] = sha256_hex(new.calibration)
        session.add(Calibration(collection_id=collection.id, data=new.calibration, sha256=details["calibration"]))
        session.flush()
    audit.record(
        session,
        Action.COLLECTION_CREATE,
        actor,
        f"collection/{new.name}",
        collection_id=collection.id,
        after=foundation_digest(collection),
        details=details,
    )
    return collection


def _encoder(new: NewCollection, method: dict[str, Any]) -> str:
    """The encoder's name; `hidden` where keys are the base model's own hidden states."""
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
    """One digest over what is fixed when a collection is created."""
    fixed: dict[str, Any] = {
        "name": collection.name,
        "model": collection.model,
        "model_digest": collection.model_digest,
        "window": collection.window,
        "method": settings_of(collection.method),
        "encoder": collection.encoder,
    }
    return sha256_hex(canonical_json(fixed))


def get(session: Session, name: str) -> Collection:
    """Raises NotFound."""
    collection = repository.by_name(session, name)
    if collection is None:
        raise NotFound(
            f"There is no collection {name!r}.",
            "`melo collection list` shows those that exist; `melo collection create` makes one.",
        )
    return collection


def view(session: Session, collection: Collection) -> CollectionView:
    return views(session, [collection])[0]


def views(session: Session, collections: Sequence[Collection] | None = None) -> list[CollectionView]:
    """Collections (all, by default) with their newest version, active edits and aliases."""
    found = repository.all_by_name(session) if collections is None else collections
    ids = [collection.id for collection in found]
    calibrations = repository.calibration_digests(session, ids)
    latest = repository.latest_numbers(session, ids)
    active = repository.active_counts(session, ids)
    aliases = repository.current_aliases(session, ids)
    return [
        CollectionView(
            id=each.id,
            name=each.name,
            model=each.model,
            model_digest=each.model_digest,
            window=each.window,
            method=each.method,
            encoder=each.encoder,
            encoder_digest=each.encoder_digest,
            calibration_sha256=calibrations.get(each.id),
            self_approval=each.self_approval,
            created_by=each.created_by,
            created_at=each.created_at,
            latest=latest.get(each.id, 0),
            active_edits=active.get(each.id, 0),
            aliases={alias.name: alias.number for alias in aliases if alias.collection_id == each.id},
        )
        for each in found
    ]


def _taken(name: str) -> NameTaken:
    return NameTaken(
        f"A collection {name!r} exists already.",
        "Names are never reused for other content: choose another, or use the one that exists.",
    )
