"""Serving by signed events alone: where a key is known, the rows of aliases and versions decide nothing by themselves.

Whoever owns the database can write any row. An alias is followed, and a version loaded, only if its last event verifies
and says the same. That is one look-up by subject each.
"""

from sqlalchemy.orm import Session

from registry.audit import repository as audit_events
from registry.audit.details import AliasSet, VersionMade, read
from registry.audit.trust import of, unverified
from registry.base.errors import Unverified
from registry.base.vocabulary import Action
from registry.tables.collections import Collection
from registry.tables.versions import Alias, Version

_MADE = [Action.VERSION_APPLY, Action.VERSION_RETIRE, Action.VERSION_REVERT, Action.VERSION_ROLLBACK]
_REMEDY = "`melo audit verify` names what was changed in the database. What is served already goes on."


def require_signed_alias(session: Session, collection: Collection, alias: Alias, content_digest: str) -> None:
    """Raise Unverified unless the alias's last event verifies, and says that it points there.

    content_digest: that of the version at which it points.
    """
    if of(session).trust is None:
        return
    name = f"{collection.name}@{alias.name}"
    event = audit_events.last_of_subject(session, f"alias/{collection.name}/{alias.name}", [Action.ALIAS_SET])
    told = read(AliasSet, event)
    share = alias.share.hex() if alias.share is not None else None
    if event is None or told is None:
        raise Unverified(f"{name} is not followed: no event tells of it.", _REMEDY)
    for wrong in unverified(session, [event]):
        raise Unverified(f"{name} is not followed: {wrong}.", _REMEDY)
    if (told.to, told.second, told.share, event.after) != (alias.number, alias.second, share, content_digest):
        wrong = f"its row says version {alias.number}, and event {event.seq}, the last one signed, something else"
        raise Unverified(f"{name} is not followed: {wrong}.", _REMEDY)


def require_no_alias(session: Session, collection: Collection, name: str) -> None:
    """Raise Unverified where an alias has no row, and yet a signed event tells of it: none is ever removed."""
    if of(session).trust is None:
        return
    event = audit_events.last_of_subject(session, f"alias/{collection.name}/{name}", [Action.ALIAS_SET])
    if event is not None and not unverified(session, [event]):
        detail = f"{collection.name}@{name} is not followed: its row is gone, and event {event.seq} tells of it."
        raise Unverified(detail, _REMEDY)


def require_signed_version(session: Session, collection: Collection, version: Version) -> None:
    """Raise Unverified unless the event of a version's making verifies, and tells of the same content."""
    if of(session).trust is None:
        return
    name = f"Version {version.number} of {collection.name}"
    event = audit_events.last_of_subject(session, f"version/{collection.name}/{version.number}", _MADE)
    if event is None or read(VersionMade, event) is None:
        raise Unverified(f"{name} is not served: no event tells of it.", _REMEDY)
    for wrong in unverified(session, [event]):
        raise Unverified(f"{name} is not served: {wrong}.", _REMEDY)
    if event.after != version.content_digest:
        raise Unverified(f"{name} is not served: its digest differs from event {event.seq}.", _REMEDY)
