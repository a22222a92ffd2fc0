"""Creates, authenticates, replaces and revokes API keys."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.access import repository
from registry.access.caller import Caller
from registry.access.keys import KeyText
from registry.access.names import require_distinct, spelled
from registry.access.schemas import (
    CallerGrant,
    CallerView,
    CreatedKeyView,
    Grant,
    GrantView,
    KeyState,
    KeyView,
    NewKey,
    Renewal,
)
from registry.audit import repository as audit_events
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import KeyCreate, KeyRevoke
from registry.audit.trust import of, unverified
from registry.base import database
from registry.base.digests import canonical_json, sha256_hex
from registry.base.errors import InvalidRequest, NameTaken, NotFound, Unauthorized, WrongState
from registry.base.vocabulary import Action, Role
from registry.tables.access import ApiKey, ApiKeyRole

_MARKED_EVERY = timedelta(minutes=1)
_ASK_FOR_ANOTHER = "Ask an admin for a new one (`melo key create`)."


def authenticate(session: Session, text: str) -> Caller:
    """Return the caller to whom this key belongs. Raises Unauthorized.

    Nothing is cached, so a revoked key is refused immediately.
    """
    given = KeyText.read(text)
    key = repository.key_by_prefix(session, given.prefix) if given else None
    if given is None or key is None or not given.fits(key.secret_sha256):
        raise unknown_key()
    now = database.now(session)
    if _state(key, now) is KeyState.REVOKED:
        raise Unauthorized(f"The API key {key.name} was revoked on {_day(key.revoked_at)}.", _ASK_FOR_ANOTHER)
    if _state(key, now) is KeyState.EXPIRED:
        raise Unauthorized(f"The API key {key.name} expired on {_day(key.expires_at)}.", _ASK_FOR_ANOTHER)
    grants = repository.roles_of(session, [key.id])
    _require_told(session, key, grants)
    if key.last_used_at is None or now - key.last_used_at > _MARKED_EVERY:
        repository.mark_used(session, key.id)
    return Caller(
        actor=key.actor,
        identity=f"key/{key.id}",
        roles={grant.collection_id: Role(grant.role) for grant in grants},
        key_name=key.name,
        key_prefix=key.prefix,
        expires_at=key.expires_at,
        seconds_left=(key.expires_at - now).total_seconds() if key.expires_at is not None else None,
    )


def _require_told(session: Session, key: ApiKey, grants: Sequence[ApiKeyRole]) -> None:
    """Raise Unauthorized where signatures are checked, and no signed event tells of this key as it is."""
    if of(session).trust is None:
        return
    events = audit_events.of_subject(session, f"key/{key.id}", (Action.KEY_CREATE, Action.KEY_REVOKE))
    made = events[0] if events and events[0].action == Action.KEY_CREATE else None
    wrong = [*unverified(session, events)]
    if made is None or (made.after, len(events)) != (key_digest(key, grants), 1):
        wrong.append("no event tells of it as it is")
    if wrong:
        raise Unauthorized(
            f"The API key {key.name} does not verify: {wrong[0]}.",
            "Somebody wrote into the database past the registry: `melo audit verify` says more.",
        )


def unknown_key() -> Unauthorized:
    return Unauthorized(
        "The API key is not known here.",
        "Give a valid one in `Authorization: Bearer KEY`; an admin makes keys with `melo key create`.",
    )


def require_unexpired(caller: Caller, age_seconds: float) -> None:
    """Raise Unauthorized where a key that was valid so many seconds ago has expired since, whatever the clock says."""
    if caller.seconds_left is not None and caller.seconds_left <= age_seconds:
        raise Unauthorized(f"The API key {caller.key_name} expired on {_day(caller.expires_at)}.", _ASK_FOR_ANOTHER)


def view_of(session: Session, caller: Caller) -> CallerView:
    """Return who the caller is and may do what, so that a program that is asked with the same key may go by it."""
    ids = sorted(each for each in caller.roles if each is not None)
    names = repository.collection_names(session, ids)
    return CallerView(
        actor=caller.actor,
        identity=caller.identity,
        key_name=caller.key_name,
        key_prefix=caller.key_prefix,
        expires_at=caller.expires_at,
        seconds_left=caller.seconds_left,
        roles=[
            CallerGrant(role=role, collection=names.get(where or 0), collection_id=where)
            for where, role in caller.roles.items()
        ],
    )


def create(session: Session, new: NewKey, actor: Actor) -> CreatedKeyView:
    """Create a key, whose secret is in the answer and nowhere else. Raises NameTaken, NotFound or InvalidRequest."""
    try:
        owner = new.actor or spelled(new.name)
    except ValueError as error:
        raise InvalidRequest(f"{new.name!r} cannot be the owner's name: {error}.", "Give another in `actor`.") from None
    grants = _grants(session, new.roles)
    return _create(session, new.name, owner, grants, new.expires_at, actor, reason="")


def renew(session: Session, key_id: int, actor: Actor, renewal: Renewal) -> CreatedKeyView:
    """Replace a key with one of the same name, actor and roles, and revoke it. Raises NotFound or WrongState.

    The new key lasts as long as the old one did, unless the renewal says how long.
    """
    old = _revoke(session, key_id, actor)
    grants = {grant.collection_id: Role(grant.role) for grant in repository.roles_of(session, [old.id])}
    expires_at = _same_lifetime(session, old) if renewal.keeps_lifetime else renewal.expires_at
    new = _create(session, old.name, old.actor, grants, expires_at, actor, renewal.reason)
    _record_revocation(session, old, actor, renewal.reason)
    return new


def _same_lifetime(session: Session, old: ApiKey) -> datetime | None:
    """Return when a key ends that is made now and lasts as long as another."""
    if old.expires_at is None:
        return None
    try:
        return database.now(session) + (old.expires_at - old.created_at)
    except OverflowError:  # past the year 9999
        return old.expires_at


def revoke(session: Session, key_id: int, actor: Actor, reason: str) -> KeyView:
    """Revoke a key permanently. Raises NotFound or WrongState."""
    key = _revoke(session, key_id, actor)
    _record_revocation(session, key, actor, reason)
    return views(session, [key])[0]


def page(session: Session, *, before: int | None, limit: int) -> Sequence[ApiKey]:
    """Return keys older than key `before`, newest first."""
    return repository.keys(session, before=before, limit=limit)


def views(session: Session, keys: Sequence[ApiKey]) -> list[KeyView]:
    """Return the views of keys, without their secrets."""
    grants = repository.roles_of(session, [key.id for key in keys])
    names = repository.collection_names(session, sorted({each.collection_id for each in grants if each.collection_id}))
    now = database.now(session)
    return [
        KeyView(
            id=key.id,
            name=key.name,
            actor=key.actor,
            prefix=key.prefix,
            state=_state(key, now),
            roles=[
                GrantView(role=Role(each.role), collection=names.get(each.collection_id or 0))
                for each in grants
                if each.key_id == key.id
            ],
            created_by=key.created_by,
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            revoked_by=key.revoked_by,
            last_used_at=key.last_used_at,
        )
        for key in keys
    ]


def key_digest(key: ApiKey, grants: Iterable[ApiKeyRole]) -> str:
    """Return a digest over the identity of a key and what it may do."""
    fixed: dict[str, Any] = {
        "name": key.name,
        "actor": key.actor,
        "prefix": key.prefix,
        "secret": key.secret_sha256,
        "expires": key.expires_at.astimezone(UTC).isoformat(timespec="microseconds") if key.expires_at else None,
        "roles": sorted([each.collection_id or 0, each.role] for each in grants),
    }
    return sha256_hex(canonical_json(fixed))


def _create(
    session: Session,
    name: str,
    owner: str,
    grants: dict[int | None, Role],
    expires_at: datetime | None,
    actor: Actor,
    reason: str,
) -> CreatedKeyView:
    require_distinct(session, [owner])
    if expires_at is not None and expires_at <= database.now(session):
        raise InvalidRequest(f"The expiry date, {_day(expires_at)}, has already passed.", "Give a later time.")
    text = KeyText.new()
    key = ApiKey(
        name=name,
        actor=owner,
        prefix=text.prefix,
        secret_sha256=text.sha256,
        created_by=actor.name,
        expires_at=expires_at,
    )
    session.add(key)
    try:
        session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, UniqueViolation):
            raise
        raise NameTaken(
            f"There is already a key {name!r}.",
            "Choose another name, or replace that key with `melo key rotate ID --reason …`, or revoke it.",
        ) from None
    rows = [
        ApiKeyRole(key_id=key.id, collection_id=collection_id, role=str(role)) for collection_id, role in grants.items()
    ]
    session.add_all(rows)
    session.flush()
    session.refresh(key)
    view = views(session, [key])[0]
    audit.record(
        session,
        KeyCreate.parse(view.model_dump(mode="json", include={"name", "actor", "prefix", "roles", "expires_at"})),
        actor,
        f"key/{key.id}",
        after=key_digest(key, rows),
        reason=reason,
    )
    return CreatedKeyView(**view.model_dump(), key=text.text)


def _revoke(session: Session, key_id: int, actor: Actor) -> ApiKey:
    key = repository.lock_key(session, key_id)
    if key is None:
        raise NotFound(f"There is no key {key_id}.", "`melo key list` shows those that exist.")
    if key.revoked_at is not None:
        raise WrongState(f"Key {key_id} ({key.name}) was already revoked on {_day(key.revoked_at)}.", "Nothing to do.")
    key.revoked_at = database.now(session)
    key.revoked_by = actor.name
    session.flush()
    return key


def _record_revocation(session: Session, key: ApiKey, actor: Actor, reason: str) -> None:
    audit.record(
        session,
        KeyRevoke(name=key.name, prefix=key.prefix),
        actor,
        f"key/{key.id}",
        before=key_digest(key, repository.roles_of(session, [key.id])),
        reason=reason,
    )


def _grants(session: Session, given: Sequence[Grant]) -> dict[int | None, Role]:
    """Return roles by collection id; if a collection is named twice, the higher role wins."""
    known = repository.collection_ids(session, [grant.collection for grant in given if grant.collection])
    found: dict[int | None, Role] = {}
    for grant in given:
        if grant.collection is not None and grant.collection not in known:
            raise NotFound(f"There is no collection {grant.collection!r}.", "`melo collection list` shows them.")
        where = known[grant.collection] if grant.collection else None
        if where not in found or grant.role.covers(found[where]):
            found[where] = grant.role
    return found


def _state(key: ApiKey, now: datetime) -> KeyState:
    if key.revoked_at is not None:
        return KeyState.REVOKED
    if key.expires_at is not None and key.expires_at <= now:
        return KeyState.EXPIRED
    return KeyState.ACTIVE


def _day(moment: datetime | None) -> str:
    if moment is None:
        return ""
    try:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except OverflowError:  # in the first hours of year 1 or the last hours of year 9999
        return moment.isoformat()
