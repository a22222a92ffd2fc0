"""Compares API keys and protected aliases with their events, as part of verifying the record."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.access.repository import roles_of
from registry.access.service import key_digest
from registry.audit.details import AliasRole, key
from registry.base.vocabulary import Action
from registry.tables.access import AliasProtection, ApiKey
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.verification.verified import Verified, is_around, is_just_before, made_and_ended


def verify_keys(session: Session) -> Verified:
    """Verify that each key was created and revoked by events that match it, and that no key vanished."""
    for made, found, ended in made_and_ended(session, ApiKey, "key", Action.KEY_CREATE, Action.KEY_REVOKE):
        if found is None:
            yield made.subject, ["it is missing: its event says that it was made"]
            continue
        wrong = []
        if made is None:
            wrong.append("the event of its creation is missing")
        elif (made.after, made.actor) != (key_digest(found, roles_of(session, [found.id])), found.created_by):
            wrong.append("its name, actor, secret, expiry, roles or maker differ from the event of its creation")
        elif not is_just_before(found.created_at, made.at):
            wrong.append("the time when it was made differs from its event")
        if ((ended.actor if ended else None), ended is None) != (found.revoked_by, found.revoked_at is None):
            wrong.append("whether it is revoked, or by whom, differs from its events")
        elif ended and not is_around(found.revoked_at, ended.at):
            wrong.append("the time when it was revoked differs from its event")
        yield f"key/{found.id}", wrong


def verify_protections(session: Session) -> Verified:
    """Verify that each alias is protected as the last event about it says."""
    newest = func.row_number().over(partition_by=AuditEvent.subject, order_by=AuditEvent.seq.desc())
    told = (
        select(
            AuditEvent.subject,
            AuditEvent.details[key(AliasRole.to)].as_string().label("role"),
            AuditEvent.actor,
            AuditEvent.reason,
            AuditEvent.at,
            newest.label("nth"),
        )
        .where(AuditEvent.action.in_([Action.ALIAS_PROTECT, Action.ALIAS_UNPROTECT]))
        .subquery()
    )
    said = {row.subject: row for row in session.execute(select(told).where(told.c.nth == 1))}
    query = select(Collection.name, AliasProtection).select_from(AliasProtection)
    query = query.outerjoin(Collection, Collection.id == AliasProtection.collection_id)
    found = {f"alias/{name}/{row.name}": row for name, row in session.execute(query)}
    for subject in sorted(said.keys() | found.keys()):
        yield f"protection of {subject}", _differences(said.get(subject), found.get(subject))


def _differences(event: Any, protection: AliasProtection | None) -> list[str]:
    if (event.role if event else None) != (protection.role if protection else None):
        return ["the role that setting it needs differs from the last event about it"]
    if protection is None:
        return []
    if (event.actor, event.reason) != (protection.protected_by, protection.reason):
        return ["who protected it, or why, differs from the last event about it"]
    if not is_just_before(protection.protected_at, event.at):
        return ["the time when it was protected differs from the last event about it"]
    return []
