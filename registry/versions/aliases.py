"""Aliases: the versions at which they point now and pointed earlier, with their canaries and shadows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from registry.audit import repository as audit_events
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import AliasSet, read
from registry.audit.trust import of, unverified
from registry.base.errors import InvalidRequest, NotFound
from registry.base.etags import require_match
from registry.base.vocabulary import Action
from registry.collections import repository as collections
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.tables.versions import Alias
from registry.versions import protections, repository
from registry.versions import service as versions
from registry.versions.erased import require_whole
from registry.versions.schemas import AliasView
from registry.versions.signed import require_no_alias


def set_alias(
    session: Session,
    collection: Collection,
    name: str,
    number: int,
    actor: Actor,
    reason: str = "",
    *,
    second: int | None = None,
    share: float | None = None,
    if_match: str | None = None,
) -> Alias:
    """Point an alias at a version, and perhaps at a second one. If it points there already, nothing changes.

    second: a version that answers a share of the users in the first one's place (a canary) or, without a share, is
    asked in the background and compared (a shadow). None ends what there was. if_match: the ETag of the alias's current
    position; MovedMeanwhile if it has another. Raises InvalidRequest for a name that cannot be an alias or a second
    version that cannot be one, RoleNeeded for a protected alias, NotFound for a version that does not exist, and Erased
    for one that can no longer be served.
    """
    protections.require_alias_name(name)
    _require_second(number, second, share)
    collections.lock(session, collection.id)
    protections.require_allowed(session, collection, name, actor)
    version = versions.get(session, collection, number)
    for each in (version, versions.get(session, collection, second)) if second is not None else (version,):
        require_whole(session, collection.id, each.number, each.content_version)
    current = repository.current_alias(session, collection.id, name)
    require_match(if_match, AliasView.model_validate(current) if current else None, f"{collection.name}@{name}")
    if current is not None and (current.number, current.second, current.share) == (number, second, share):
        return current
    # Read the clock under the lock: a transaction that began later may have set the alias first.
    moment = repository.clock(session)
    if current is not None:
        current.replaced_at = moment
        session.flush()
    alias = Alias(
        collection_id=collection.id, name=name, number=number, second=second, share=share,
        set_by=actor.name, reason=reason, set_at=moment,
    )  # fmt: skip
    session.add(alias)
    session.flush()
    before = versions.get(session, collection, current.number) if current else None
    audit.record(
        session,
        AliasSet(
            from_=before.number if before else None,
            to=number,
            set_at=moment.astimezone(UTC).isoformat(timespec="microseconds"),
            second=second,
            share=share.hex() if share is not None else None,
        ),
        actor,
        f"alias/{collection.name}/{name}",
        collection_id=collection.id,
        before=before.content_digest if before else None,
        after=version.content_digest,
        reason=reason,
    )
    return alias


def _require_second(number: int, second: int | None, share: float | None) -> None:
    if second == number:
        raise InvalidRequest(f"Version {number} cannot be its own canary or shadow.", "Name another version.")
    if share is not None and (second is None or not 0 < share < 1):
        raise InvalidRequest(
            f"A share of {share} says nothing: a canary is a second version, and answers a share between 0 and 1.",
            "Name a second version and a share such as 0.1; to move all users, point the alias at it.",
        )


def page(session: Session, collection: Collection, *, after: str | None, limit: int) -> Sequence[Alias]:
    """Return where each alias points now, by name."""
    return repository.current_aliases(session, collection.id, after=after, limit=limit)


def history(
    session: Session, collection: Collection, name: str, *, before: datetime | None = None, limit: int = 100
) -> Sequence[Alias]:
    """Return where an alias pointed, newest first. Raises NotFound.

    before: when the last one on the previous page was set.
    """
    rows = repository.alias_history(session, collection.id, name, before=before, limit=limit)
    if not rows and before is None:
        raise _no_alias(session, collection, name)
    return rows


def get(session: Session, collection: Collection, name: str) -> Alias:
    """Return where an alias points now. Raises NotFound."""
    current = repository.current_alias(session, collection.id, name)
    if current is None:
        raise _no_alias(session, collection, name)
    return current


def followed(session: Session, collection: Collection, name: str) -> Alias:
    """Return where an alias points now. Raises NotFound, or Unverified where only its row was removed."""
    current = repository.current_alias(session, collection.id, name)
    if current is None:
        require_no_alias(session, collection, name)
        raise _no_alias(session, collection, name)
    return current


def pointed_at(session: Session, collection: Collection, name: str, moment: datetime) -> Alias:
    """Return where an alias pointed at a given time. Raises NotFound, also if it did not exist yet."""
    found = repository.alias_at(session, collection.id, name, moment)
    if found is None:
        first = repository.first_alias(session, collection.id, name)
        if first is None:
            raise _no_alias(session, collection, name)
        raise NotFound(
            f"{collection.name}@{name} pointed nowhere at {moment.isoformat()}: it was first set at "
            f"{first.set_at.isoformat()}, by {first.set_by}.",
            f"Ask for a later time; `melo alias history {collection.name} {name}` shows the whole.",
        )
    return found


def views(session: Session, collection: Collection, rows: Sequence[Alias]) -> list[AliasView]:
    """Return positions of aliases, each with why its event does not verify, if so."""
    found = [AliasView.model_validate(row) for row in rows]
    if of(session).trust is None:
        return found
    told: dict[str, list[tuple[AuditEvent, AliasSet | None]]] = {}
    for name in {row.name for row in rows}:
        events = audit_events.of_subject(session, f"alias/{collection.name}/{name}", [Action.ALIAS_SET])
        told[name] = [(event, read(AliasSet, event)) for event in events]
    return [view.model_copy(update={"unverified": _wrong_with(session, view, told[view.name])}) for view in found]


def _wrong_with(session: Session, view: AliasView, told: Sequence[tuple[AuditEvent, AliasSet | None]]) -> str | None:
    share = view.share.hex() if view.share is not None else None
    said = (view.number, view.second, share, view.set_at.astimezone(UTC).isoformat(timespec="microseconds"))
    for event, details in told:
        if details and said == (details.to, details.second, details.share, details.set_at):
            if (event.actor, event.reason) != (view.set_by, view.reason):
                return f"event {event.seq}: who set it, or why, differs"
            return next(iter(unverified(session, [event])), None) or _backdated(event, view)
    return "no event tells of it"


def _backdated(event: AuditEvent, view: AliasView) -> str | None:
    if event.at - view.set_at > timedelta(minutes=5):
        return f"event {event.seq}: it was written at {event.at.isoformat()}, long after the time that it claims"
    return None


def _no_alias(session: Session, collection: Collection, name: str) -> NotFound:
    known = ", ".join(alias.name for alias in page(session, collection, after=None, limit=50)) or "none so far"
    return NotFound(
        f"Collection {collection.name} has no alias {name!r} (its aliases: {known}).",
        f"Set it with `melo alias set {collection.name} {name} VERSION --reason …`, or name a version's number.",
    )
