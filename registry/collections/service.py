"""Creating collections, and reading them as the API shows them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.base_models import find_encoder, find_model
from registry.collections import repository
from registry.collections.models import Collection
from registry.collections.schemas import CollectionView, NewCollection
from registry.digests import canonical_json, settings_of, sha256_hex
from registry.errors import NameTaken, NotFound
from registry.vocabulary import Action


def create(session: Session, new: NewCollection, actor: Actor) -> Collection:
    """A new line of versions. Raises NameTaken, or UnknownModel where model or encoder are not found here."""
    if repository.by_name(session, new.name) is not None:
        raise _taken(new.name)
    files = find_model(new.model)
    find_encoder(new.encoder)  # the digest is written by the first worker that used it
    collection = Collection(
        name=new.name,
        model=new.model,
        model_digest=files.digest,
        window=files.window,
        method=new.method,
        encoder=new.encoder,
        self_approval=new.self_approval,
        created_by=actor.name,
    )
    session.add(collection)
    try:
        session.flush()
    except IntegrityError:  # created by someone else since the look above
        raise _taken(new.name) from None
    audit.record(
        session,
        Action.COLLECTION_CREATE,
        actor,
        f"collection/{new.name}",
        collection_id=collection.id,
        after=foundation_digest(collection),
        details={"model": new.model, "encoder": new.encoder, "self_approval": new.self_approval},
    )
    return collection


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
