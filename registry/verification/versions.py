"""Recomputing the versions: what each one shows, from its states, and what its event says of it.

A collection's states are read once, in the order in which they begin and end, and each version is verified as they
reach it: the cost is that of the changes, not of versions times content. What ended is not divided away, which would
cost an inverse at every version: it is multiplied on the other side of the comparison.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from registry.audit.details import VersionApply, VersionMade, VersionRevert, VersionRollback, read
from registry.base.digests import Foundation, cluster_element, content_digest, edit_element
from registry.base.multiset import PRIME, Multiset, product
from registry.tables.audit import AuditEvent
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.verification.verified import Verified
from registry.versions import repository

_FEW = 100
_MANY = 10_000

_BOUNDS = text("""
SELECT lower(valid) AS at, true AS begins, true AS is_cluster, digest FROM clusters WHERE collection_id = :id
UNION ALL
SELECT upper(valid), false, true, digest FROM clusters WHERE collection_id = :id AND NOT upper_inf(valid)
UNION ALL
SELECT lower(valid), true, false, digest FROM activations JOIN edits ON edits.id = activations.edit_id
WHERE activations.collection_id = :id
UNION ALL
SELECT upper(valid), false, false, digest FROM activations JOIN edits ON edits.id = activations.edit_id
WHERE activations.collection_id = :id AND NOT upper_inf(valid)
ORDER BY 1
""")

_AFTER_ALL = text("""
SELECT (SELECT count(*) FROM clusters WHERE collection_id = :id AND lower(valid) > :last)
     + (SELECT count(*) FROM clusters WHERE collection_id = :id AND upper(valid) > :last)
     + (SELECT count(*) FROM activations WHERE collection_id = :id AND lower(valid) > :last)
     + (SELECT count(*) FROM activations WHERE collection_id = :id AND upper(valid) > :last)
""")


_BEFORE_ALL = text("""
SELECT count(*)
FROM (SELECT collection_id, valid FROM clusters UNION ALL SELECT collection_id, valid FROM activations) AS states
WHERE collection_id = :id AND (isempty(valid) OR coalesce(lower(valid), 0) < 1)
""")


def verify_versions(session: Session) -> Verified:
    """Verify every version, in order, and yield what is wrong with each."""
    for collection in session.scalars(select(Collection).order_by(Collection.id)).all():
        states = _States(session, collection)
        last, before = 0, None
        for version, event in _versions_with_events(session, collection):
            wrong = ["the version before it is missing"] if version.number != last + 1 else []
            wrong += states.wrong_with(version)
            wrong += _differences_from(event, version)
            if version.parent_id != before:
                wrong.append("it does not follow the version before it")
            yield f"version {version.number} of {collection.name}", wrong
            last, before = version.number, version.id
        stray = session.execute(_AFTER_ALL, {"id": collection.id, "last": last}).scalar_one()
        if early := session.execute(_BEFORE_ALL, {"id": collection.id}).scalar_one():
            detail = f"{early} times an edit or a cluster begins before version 1: the base model would answer with it"
            yield f"collection {collection.name}", [detail]
        if stray:
            yield (
                f"collection {collection.name}",
                [f"{stray} times an edit or a cluster begins or ends after its newest version, {last}"],
            )


def _versions_with_events(session: Session, collection: Collection) -> Iterator[Any]:
    subject = func.concat(f"version/{collection.name}/", Version.number)
    query = (
        select(Version, AuditEvent)
        .outerjoin(AuditEvent, AuditEvent.subject == subject)
        .where(Version.collection_id == collection.id)
        .order_by(Version.number)
    )
    return iter(session.execute(query.execution_options(yield_per=_FEW)))


def _differences_from(event: AuditEvent | None, version: Version) -> list[str]:
    if event is None:
        return ["its event is missing"]
    details = read(VersionMade, event)
    if details is None:
        return ["the details of its event are not those of a version"]
    told = (event.after, event.reason, details.message, details.author)
    if told != (version.content_digest, version.reason, version.message, version.author):
        return ["its digest, reason, message or author differ from its event"]
    did = (event.action, *_came_of(details))
    if did != (f"collection:version:{version.kind}", version.batch_id, version.reverts, version.restores):
        return ["its kind, or the batch or the version that it comes from, differ from its event"]
    made_at = version.created_at.astimezone(UTC).isoformat(timespec="microseconds")
    counts = [version.edit_count, version.cluster_count, version.block_count]
    if (details.made_at, details.counts) != (made_at, counts):
        return ["its time or its counts differ from its event"]
    return []


def _came_of(details: VersionMade) -> tuple[int | None, int | None, int | None]:
    """Return the batch that was applied, the version that was reverted, and the one that was restored."""
    match details:
        case VersionApply(batch=batch):
            return batch, None, None
        case VersionRevert(reverts=number):
            return None, number, None
        case VersionRollback(to=number):
            return None, None, number
    return None, None, None


@dataclass
class _States:
    """The states of a collection, read in order."""

    session: Session
    collection: Collection
    came: int = 1  # the product of all elements that began so far
    went: int = 1
    clusters: int = 0
    edits: int = 0
    shown: dict[int, tuple[bool, tuple[Any, ...]]] = field(default_factory=dict)  # by state: whether it is right

    def __post_init__(self) -> None:
        self.foundation: Foundation = repository.foundation(self.session, self.collection)
        base = Multiset()
        self.shown[0] = True, (content_digest(self.foundation, base), bytes(base), 0, 0)
        self._rest = iter(self._bounds())
        self._next = next(self._rest, None)

    def wrong_with(self, version: Version) -> list[str]:
        facts = (version.content_digest, version.content_state, version.edit_count, version.cluster_count)
        if version.content_version != version.number:
            right, restored = self.shown.get(version.content_version, (False, ()))
            return [] if right and restored == facts else ["its content does not match its digest"]
        right = self._recomputed(version)
        self.shown[version.number] = right, facts
        wrong = [] if right else ["its content does not match its digest"]
        if (version.edit_count, version.cluster_count) != (self.edits, self.clusters):
            wrong.append("its counts are not those of its content")
        return wrong

    def _recomputed(self, version: Version) -> bool:
        self._advance_to(version.number)
        stored = Multiset.from_bytes(version.content_state)
        same = stored.state * self.went % PRIME == self.came
        return same and content_digest(self.foundation, stored) == version.content_digest

    def _advance_to(self, number: int) -> None:
        came: list[str] = []
        went: list[str] = []
        while self._next is not None and self._next.at <= number:
            row, self._next = self._next, next(self._rest, None)
            step = 1 if row.begins else -1
            if row.is_cluster:
                self.clusters += step
            else:
                self.edits += step
            element = cluster_element(row.digest) if row.is_cluster else edit_element(row.digest)
            (came if row.begins else went).append(element)
        self.came = self.came * product(came) % PRIME
        self.went = self.went * product(went) % PRIME

    def _bounds(self) -> Iterable[Any]:
        return self.session.execute(_BOUNDS, {"id": self.collection.id}, execution_options={"yield_per": _MANY})
