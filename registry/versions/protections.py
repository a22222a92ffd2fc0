"""What an alias may be called, and the protection of those that not every approver may set."""

import re
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import AliasProtect, AliasUnprotect, Details
from registry.base.errors import InvalidRequest, NotFound, RoleNeeded
from registry.base.vocabulary import Role
from registry.base.wire import NAME_PATTERN, NAMES_ALLOWED, means_a_version
from registry.collections import repository as collections
from registry.tables.access import AliasProtection
from registry.tables.collections import Collection


def require_alias_name(name: str) -> None:
    """Raise InvalidRequest for a name that cannot be an alias."""
    if not re.fullmatch(NAME_PATTERN, name) or means_a_version(name):
        raise InvalidRequest(f"{name!r} cannot be an alias.", NAMES_ALLOWED)


def page(session: Session, collection: Collection, *, after: str | None, limit: int) -> Sequence[AliasProtection]:
    """Return protections by name, after the name at which the last page ended."""
    query = select(AliasProtection).where(AliasProtection.collection_id == collection.id)
    if after is not None:
        query = query.where(AliasProtection.name > after)
    return session.scalars(query.order_by(AliasProtection.name).limit(limit)).all()


def protect(
    session: Session, collection: Collection, name: str, role: Role, actor: Actor, reason: str
) -> AliasProtection:
    """Require a role for setting the alias from now on. Raises InvalidRequest for a name that cannot be an alias."""
    require_alias_name(name)
    collections.lock(session, collection.id)
    found = _protection(session, collection.id, name)
    before = found.role if found else None
    if found is not None and before == role:
        return found
    if found is None:
        found = AliasProtection(collection_id=collection.id, name=name)
        session.add(found)
    found.role, found.protected_by, found.reason = str(role), actor.name, reason
    found.protected_at = func.clock_timestamp()
    session.flush()
    session.refresh(found)
    _record(session, AliasProtect(from_=before, to=str(role)), collection, name, actor, reason)
    return found


def unprotect(session: Session, collection: Collection, name: str, actor: Actor, reason: str) -> AliasProtection:
    """Allow every approver to set the alias again. Raises NotFound."""
    collections.lock(session, collection.id)
    found = _protection(session, collection.id, name)
    if found is None:
        raise NotFound(
            f"The alias {name!r} of {collection.name} is not protected.",
            f"`melo alias list {collection.name}` shows those that are.",
        )
    session.delete(found)
    session.flush()
    _record(session, AliasUnprotect(from_=found.role, to=None), collection, name, actor, reason)
    return found


def require_allowed(session: Session, collection: Collection, name: str, actor: Actor) -> None:
    """Raise RoleNeeded if the alias is protected against this actor. Call it with the collection locked."""
    found = _protection(session, collection.id, name)
    if found is not None and not actor.role.covers(Role(found.role)):
        raise RoleNeeded(
            f"The alias {name!r} of {collection.name} is protected: setting it needs the role {found.role}, and "
            f"{actor.name} is {actor.role} there.",
            f"Ask an {found.role} to set it.",
        )


def _record(session: Session, details: Details, collection: Collection, name: str, actor: Actor, reason: str) -> None:
    audit.record(
        session,
        details,
        actor,
        f"alias/{collection.name}/{name}",
        collection_id=collection.id,
        reason=reason,
    )


def _protection(session: Session, collection_id: int, name: str) -> AliasProtection | None:
    return session.get(AliasProtection, (collection_id, name))
