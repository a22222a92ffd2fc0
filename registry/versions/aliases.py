"""Names that point at versions, and where each pointed when."""

import re
from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.collections import repository as collections
from registry.collections.models import Collection
from registry.errors import InvalidRequest, NotFound
from registry.versions import repository
from registry.versions import service as versions
from registry.versions.models import Alias
from registry.vocabulary import Action
from registry.wire import NAME_PATTERN

RESERVED = ("base", "latest")  # they always mean the model without edits, and the newest version


def set_alias(
    session: Session, collection: Collection, name: str, number: int, actor: Actor, reason: str = ""
) -> Alias:
    """Point a name at a version. Pointing it where it points already changes nothing.

    Raises InvalidRequest for a name that cannot be an alias, NotFound for a version that does not exist.
    """
    if not re.fullmatch(NAME_PATTERN, name) or name.isdigit() or name in RESERVED:
        raise InvalidRequest(
            f"{name!r} cannot be an alias.",
            "Use lower-case letters, digits, '.', '_' and '-', not digits alone, and neither base nor latest.",
        )
    collections.lock(session, collection.id)
    version = versions.get(session, collection, number)
    current = repository.current_alias(session, collection.id, name)
    if current is not None and current.number == number:
        return current
    # Of the clock, under the lock: a transaction that began later may have set the alias first.
    moment = repository.clock(session)
    if current is not None:
        current.replaced_at = moment
        session.flush()
    alias = Alias(
        collection_id=collection.id, name=name, number=number, set_by=actor.name, reason=reason, set_at=moment
    )
    session.add(alias)
    session.flush()
    before = versions.get(session, collection, current.number) if current else None
    audit.record(
        session,
        Action.ALIAS_SET,
        actor,
        f"alias/{collection.name}/{name}",
        collection_id=collection.id,
        before=before.content_digest if before else None,
        after=version.content_digest,
        reason=reason,
        details={"from": before.number if before else None, "to": number},
    )
    return alias


def list_aliases(session: Session, collection: Collection) -> Sequence[Alias]:
    """Where each alias points now, by name."""
    return collections.current_aliases(session, [collection.id])


def history(session: Session, collection: Collection, name: str) -> Sequence[Alias]:
    """Where an alias pointed, newest first. Raises NotFound."""
    rows = repository.alias_history(session, collection.id, name)
    if not rows:
        raise _no_alias(session, collection, name)
    return rows


def target(session: Session, collection: Collection, name: str) -> int:
    """The number of the version that an alias points at. Raises NotFound."""
    current = repository.current_alias(session, collection.id, name)
    if current is None:
        raise _no_alias(session, collection, name)
    return current.number


def _no_alias(session: Session, collection: Collection, name: str) -> NotFound:
    known = ", ".join(alias.name for alias in list_aliases(session, collection)) or "none so far"
    return NotFound(
        f"Collection {collection.name} has no alias {name!r} (its aliases: {known}).",
        f"Set it with `melo alias set {collection.name} {name} VERSION --reason …`, or name a version's number.",
    )
