"""A collection's policy: how many approvals a batch needs, by whom, and what is checked before."""

from collections.abc import Collection as Names
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.collections import repository
from registry.collections.models import Collection
from registry.collections.schemas import PolicyChange
from registry.digests import canonical_json, sha256_hex
from registry.errors import InvalidRequest
from registry.vocabulary import Action


def of(collection: Collection) -> dict[str, Any]:
    """The policy as an event tells it."""
    return {
        "approvals_needed": collection.approvals_needed,
        "approvers": list(collection.approvers),
        "self_approval": collection.self_approval,
        "checks": str(collection.checks),
    }


def change(session: Session, collection: Collection, wanted: PolicyChange, actor: Actor) -> Collection:
    """Change what is given, in one event. Batches that wait for a decision are decided under the new policy.

    Raises InvalidRequest where nothing is given, or the approvers would be too few.
    """
    given = wanted.model_dump(exclude_none=True, exclude={"reason"}, mode="json")
    if not given:
        raise InvalidRequest(
            "The request changes nothing.", "Give approvals_needed, approvers, self_approval or checks."
        )
    collection = repository.lock(session, collection.id)
    if "approvers" in given:
        given["approvers"] = sorted(set(given["approvers"]))
    before = of(collection)
    after = before | given
    require_enough(after["approvals_needed"], after["approvers"])
    if after == before:
        return collection
    for name, value in given.items():
        setattr(collection, name, value)
    session.flush()
    audit.record(
        session,
        Action.POLICY_CHANGE,
        actor,
        f"collection/{collection.name}",
        collection_id=collection.id,
        before=sha256_hex(canonical_json(before)),
        after=sha256_hex(canonical_json(after)),
        reason=wanted.reason,
        details={"before": before, "after": after},
    )
    return collection


def require_enough(approvals_needed: int, approvers: Names[str]) -> None:
    """Raise InvalidRequest where no batch could ever be approved."""
    if approvers and len(set(approvers)) < approvals_needed:
        raise InvalidRequest(
            f"{approvals_needed} different people would have to approve, but only {len(set(approvers))} may.",
            "Name more approvers, or ask for fewer approvals.",
        )
