"""A collection's policy: how many approvals a batch needs, by whom, what the preflight does before, what is logged."""

from collections.abc import Collection as Names
from dataclasses import replace

from sqlalchemy.orm import Session

from registry.access.names import require_distinct
from registry.audit import details, trust
from registry.audit import repository as events
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import read
from registry.base.digests import canonical_json, settings_of, sha256_hex
from registry.base.errors import InvalidRequest, Unverified
from registry.base.vocabulary import Action, Preflight
from registry.collections import repository
from registry.collections.schemas import PolicyChange
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection


def of(collection: Collection) -> details.Policy:
    """Return the policy in the form in which events record it."""
    return details.Policy(
        approvals_needed=collection.approvals_needed,
        approvers=list(collection.approvers),
        self_approval=collection.self_approval,
        preflight=str(collection.preflight),
        left_alone_needed=settings_of(collection.left_alone_needed),
        preflight_limits=dict(collection.preflight_limits),
        log_share=settings_of(collection.log_share),
        log_text=collection.log_text,
        log_days=collection.log_days,
    )


def change(session: Session, collection: Collection, wanted: PolicyChange, actor: Actor) -> Collection:
    """Change what is given, in one event. Batches that wait for a decision are decided under the new policy.

    Raises InvalidRequest where nothing is given, the approvers would be too few, or no preflight would try near misses.
    """
    given = wanted.model_dump(exclude_none=True, exclude={"reason"}, mode="json")
    if not given:
        raise InvalidRequest(
            "The request changes nothing.",
            "Change the approvals, the approvers, self-approval, the preflight, the share of near misses left alone, "
            "or what is logged of answers.",
        )
    require_distinct(session, wanted.approvers or [])
    collection = repository.lock(session, collection.id)
    if "approvers" in given:
        given["approvers"] = sorted(set(given["approvers"]))
    if "left_alone_needed" in given:
        given["left_alone_needed"] = given["left_alone_needed"] or None
    before = of(collection)
    after = replace(before, **settings_of(given))
    require_enough(after.approvals_needed, after.approvers)
    require_tried(after.left_alone_needed is not None, Preflight(after.preflight))
    if after == before:
        return collection
    for name, value in given.items():
        setattr(collection, name, value)
    session.flush()
    audit.record(
        session,
        details.PolicyChange(before=before, after=after),
        actor,
        f"collection/{collection.name}",
        collection_id=collection.id,
        before=sha256_hex(canonical_json(before.stored())),
        after=sha256_hex(canonical_json(after.stored())),
        reason=wanted.reason,
    )
    return collection


def differences(event: AuditEvent, collection: Collection) -> list[str]:
    """Return the names of what differs from the policy that an event tells of."""
    change = read(details.PolicyChange, event)
    told = change.after if change else read(details.CollectionCreate, event)
    return [name for name, value in of(collection).stored().items() if getattr(told, name, None) != value]


def require_told(session: Session, collection: Collection) -> None:
    """Raise Unverified where a key is known and the policy is not that of a signed event."""
    if trust.of(session).trust is None:
        return
    event = events.last_of(session, collection.id, (Action.COLLECTION_CREATE, Action.POLICY_CHANGE))
    wrong = trust.unverified(session, [event]) if event else ["no event tells of it"]
    if event and (differ := differences(event, collection)):
        wrong.append(f"its {', '.join(differ)} differ from event {event.seq}")
    if wrong:
        raise Unverified(
            f"The policy of collection {collection.name} does not verify: {wrong[0]}.",
            "`melo audit verify` says more. An admin sets it right with "
            f"`melo collection policy {collection.name} --reason …`.",
        )


def require_enough(approvals_needed: int, approvers: Names[str]) -> None:
    """Raise InvalidRequest if no batch could ever be approved."""
    if approvers and len(set(approvers)) < approvals_needed:
        raise InvalidRequest(
            f"{approvals_needed} different people would have to approve, but only {len(set(approvers))} may.",
            "Name more approvers, or ask for fewer approvals.",
        )


def require_tried(left_alone_asked: bool, preflight: Preflight) -> None:
    """Raise InvalidRequest where a share of near misses is asked for that no preflight would tell."""
    if left_alone_asked and preflight is Preflight.NONE:
        raise InvalidRequest(
            "A share of near misses to be left alone is asked for, but without a preflight none is tried.",
            "Ask for a preflight (`preflight=keys` or `preflight=train`), or for no share (0).",
        )
