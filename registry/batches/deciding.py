"""Decides on batches: as many approvals as the policy requires, for a batch as a whole or in part."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy import func
from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.audit.details import BatchApprove, BatchReject, Details
from registry.base.digests import work_digest
from registry.base.errors import (
    InvalidEdits,
    InvalidRequest,
    NotApprover,
    RecordProblem,
    RoleNeeded,
    SelfApproval,
    TooFewLeftAlone,
    WrongState,
    ids_in_words,
)
from registry.base.vocabulary import BatchState, JobKind, JobState, Role
from registry.batches import service
from registry.collections import policy
from registry.collections import repository as collections
from registry.edits import events, repository
from registry.edits.repository import DECIDED
from registry.edits.validation import same_target
from registry.jobs import repository as jobs
from registry.jobs import service as queue
from registry.jobs.collection_queue import require_open
from registry.jobs.preflights import tried
from registry.jobs.schemas import EditPreflight
from registry.tables.collections import Collection as CollectionRow
from registry.tables.edits import Approval, Batch, Edit

DECIDABLE = (BatchState.SUBMITTED, BatchState.FAILED, BatchState.CANCELLED)


def approve(session: Session, batch_id: int, actor: Actor, reason: str = "", declined: Collection[int] = ()) -> Batch:
    """Approve a batch, without the edits `declined`. The last approval needed queues its training.

    Edits that any approver declined are left out of the batch. A batch that failed or was cancelled may be approved
    again: its approvals stand, and it is queued anew. Raises WrongState, QueueClosed, SelfApproval, NotApprover,
    Unverified if the policy is not that of a signed event, InvalidRequest if edits cannot be left out, TooFewLeftAlone
    if they would answer more near misses than the policy allows, or InvalidEdits if an edit now contradicts one that is
    active or on its way.
    """
    # Lock the collection first, as everywhere: two approvals must not both find a prompt free.
    collection = collections.lock(session, service.get(session, batch_id).collection_id)
    batch = service.lock(session, batch_id)
    if batch.state not in DECIDABLE:
        raise _wrong_state(batch, "approved")
    require_open(collection)
    policy.require_told(session, collection)
    _require_may_approve(collection, batch, actor.name)
    earlier = repository.approvals(session, batch.id)
    left_out = {edit_id for approval in earlier for edit_id in approval.declined}
    mine = next((approval for approval in earlier if approval.actor == actor.name), None)
    if mine is None:
        left_out |= _declinable(session, batch, declined, left_out)
    elif set(declined) - left_out:
        raise WrongState(
            f"{actor.name} has already approved batch {batch.id}; an approval is never changed.",
            "Let somebody else approve it without those edits, or reject it.",
        )
    _require_left_alone(session, collection, batch, left_out)
    _require_no_contradictions(session, batch, left_out)
    if mine is None:
        mine = _add_approval(session, batch, actor, reason, declined)
    counted = {each.actor for each in (*earlier, mine) if service.may_approve(collection, batch, each.actor)}
    needed = collection.approvals_needed
    told = BatchApprove(
        submitted_by=batch.submitted_by,
        approval=mine.id,
        declined=sorted(mine.declined),
        approvals=sorted(counted),
        approvals_needed=needed,
    )
    if len(counted) >= needed:
        batch.state = BatchState.APPROVED
        batch.approvals_needed = needed
        decide(batch, actor, reason)
        session.flush()
        cancelled = list(queue.cancel_preflights(session, batch, held_too=False))
        job = queue.enqueue(session, batch)
        work = work_digest(job.seed, job.settings)
        told = replace(told, cancelled_preflights=cancelled, job=job.id, work=work)
    elif mine in earlier:
        raise WrongState(
            f"{actor.name} has already approved batch {batch.id}: it has {len(counted)} of {needed} approvals.",
            "The remaining approvals must come from other people.",
        )
    record_decision(session, told, batch, actor, reason)
    return batch


def reject(session: Session, batch_id: int, actor: Actor, reason: str) -> Batch:
    """Decide against a batch; its preflight ends, also one that a worker is at.

    An editor may withdraw their own batch, and no other. Raises WrongState or RoleNeeded.
    """
    batch = service.lock(session, batch_id)
    require_may_stop(batch, actor, "reject")
    if batch.state not in DECIDABLE:
        raise _wrong_state(batch, "rejected")
    batch.state = BatchState.REJECTED
    decide(batch, actor, reason)
    session.flush()
    cancelled = list(queue.cancel_preflights(session, batch, held_too=True))
    told = BatchReject(submitted_by=batch.submitted_by, cancelled_preflights=cancelled)
    record_decision(session, told, batch, actor, reason)
    return batch


def require_may_stop(batch: Batch, actor: Actor, wish: str) -> None:
    """Raise RoleNeeded unless the actor submitted the batch or may decide on batches."""
    if batch.submitted_by != actor.name and not actor.role.covers(Role.APPROVER):
        raise RoleNeeded(
            f"Batch {batch.id} was submitted by {batch.submitted_by}: {actor.name}, who is {actor.role} here, may "
            "withdraw only what they submitted themselves.",
            f"Ask an {Role.APPROVER} to {wish} it.",
        )


def _require_may_approve(collection: CollectionRow, batch: Batch, name: str) -> None:
    """Raise SelfApproval or NotApprover if the policy does not let this person approve the batch."""
    if service.may_approve(collection, batch, name):
        return
    if batch.submitted_by == name and not collection.self_approval:
        raise SelfApproval(
            f"Batch {batch.id} was submitted by {name}, who therefore cannot approve it.",
            "Ask somebody else to approve it, or let an admin allow it: "
            f"melo collection policy {collection.name} --self-approval --reason …",
        )
    raise NotApprover(
        f"{name} is not among those who may approve in collection {collection.name}.",
        f"Ask one of them: {', '.join(collection.approvers)}.",
    )


def _declinable(session: Session, batch: Batch, declined: Collection[int], left_out: set[int]) -> set[int]:
    """Return the edits to leave out. Raises InvalidRequest if one is not of the batch, or none would be left."""
    edits = {edit.id for edit in repository.of_batch(session, batch.id)} if declined else set()
    if strangers := sorted(set(declined) - edits):
        raise InvalidRequest(
            f"Batch {batch.id} has no edit {ids_in_words(strangers)}, so it cannot be left out.",
            f"`melo batch show {batch.id}` lists its edits.",
        )
    if declined and edits == left_out | set(declined):
        raise InvalidRequest(
            f"No edit of batch {batch.id} would be left to apply.",
            f"Reject it: melo batch reject {batch.id} --reason …",
        )
    return set(declined)


def _require_left_alone(session: Session, collection: CollectionRow, batch: Batch, left_out: set[int]) -> None:
    """Raises TooFewLeftAlone, or WrongState where no preflight has tried near misses yet."""
    needed = collection.left_alone_needed
    if needed is None:
        return
    asked = f"Collection {collection.name} asks for {needed:.1%} of near misses to be left alone, "
    preflight = jobs.latest_of_batch(session, batch.id, JobKind.PREFLIGHT)
    if preflight is None or preflight.report is None:
        waits = preflight is not None and preflight.state in (JobState.QUEUED, JobState.RUNNING)
        raise WrongState(
            f"{asked}but the preflight of batch {batch.id} {'is not done yet' if waits else 'has no report'}.",
            f"Wait for it: melo batch show {batch.id} --watch"
            if waits
            else f"Reject it (melo batch reject {batch.id} --reason …) and submit it again, to have a preflight.",
        )
    report = [EditPreflight.model_validate(each) for each in preflight.report]
    found = tried(report, {each.edit_id for each in report} - left_out)
    if found.share is not None and found.share < needed:
        raise TooFewLeftAlone(
            f"{asked}but the edits of batch {batch.id} leave alone {found.share:.1%}: "
            f"{found.left_alone} of {found.count}.",
            f"Make guards of those that must not be answered (melo batch review {batch.id}), or leave out the edits "
            f"that answer them (melo batch approve {batch.id} --except EDIT).",
        )


def _add_approval(session: Session, batch: Batch, actor: Actor, reason: str, declined: Collection[int]) -> Approval:
    approval = Approval(
        batch_id=batch.id, actor=actor.name, role=actor.role, reason=reason, declined=sorted(set(declined))
    )
    session.add(approval)
    session.flush()
    return approval


def _require_no_contradictions(session: Session, batch: Batch, left_out: set[int]) -> None:
    """Raise InvalidEdits if an edit of the batch collides with an edit that came first."""
    problems = _contradictions(session, batch, left_out)
    if problems:
        raise InvalidEdits(
            f"Batch {batch.id} cannot be approved: {len({problem.position for problem in problems})} of its edits "
            "collide with edits that came first.",
            "Leave them out (`melo batch approve --except EDIT`), or reject the batch and submit it again with "
            "`on_conflict=replace` or `on_conflict=skip`.",
            problems,
        )


def _contradictions(session: Session, batch: Batch, left_out: set[int]) -> list[RecordProblem]:
    """Return the batch's edits for whose prompt another edit is active or on its way, unless they replace it."""
    mine = [edit for edit in repository.of_batch(session, batch.id) if edit.id not in left_out]
    by_prompt = {edit.prompt_key: edit for edit in mine}
    standing = repository.standing_by_key(
        session, batch.collection_id, by_prompt, pending=DECIDED, except_batch=batch.id
    )
    problems = []
    for other in standing:
        edit = by_prompt[other.prompt_key]
        if edit.replaces == other.id:
            continue
        verb = "repeats" if same_target(edit.target, other.target) else "contradicts"
        problems.append(
            RecordProblem(
                position=edit.position,
                code="duplicate" if verb == "repeats" else "contradiction",
                detail=f"Edit {edit.id} {verb} edit {other.id}, whose target is {other.target!r}.",
                remedy=f"Submit it again with `replaces={other.id}`, or leave edit {edit.id} out.",
                prompt=edit.prompt,
                target=edit.target,
                other_edit_id=other.id,
                other_prompt=other.prompt,
                other_target=other.target,
            )
        )
    told = {problem.position for problem in problems}
    return problems + _lost_replacements(session, batch, [edit for edit in mine if edit.position not in told])


def _lost_replacements(session: Session, batch: Batch, mine: Sequence[Edit]) -> list[RecordProblem]:
    """Return the edits that another edit replaces, or that replace an edit that cannot be replaced: both would act."""
    named = {edit.replaces for edit in mine if edit.replaces is not None}
    replaced = named.union(edit.id for edit in mine)
    others = repository.replacing(session, batch.collection_id, replaced, except_batch=batch.id)
    by_replaced = {other.replaces: other for other in others}
    lost = repository.not_replaceable(session, batch.collection_id, named)
    problems = []
    for edit in mine:
        if other := by_replaced.get(edit.id):
            code, field, other_id = "replaced", None, other.id
            detail = f"Edit {edit.id} is replaced by edit {other.id} of batch {other.batch_id}."
            remedy = f"Leave edit {edit.id} out, or submit it again with `replaces={other.id}`."
        elif edit.replaces is None or edit.replaces not in by_replaced.keys() | lost:
            continue
        else:
            code, field, other_id = "replaces-nothing", "replaces", edit.replaces
            other = by_replaced.get(edit.replaces)
            why = f"which edit {other.id} replaces already" if other else "which does not act, or does not act yet"
            detail = f"Edit {edit.id} replaces edit {edit.replaces}, {why}."
            remedy = f"Leave edit {edit.id} out, or submit it again for an edit that is active (`melo edit list`)."
        problems.append(
            RecordProblem(
                position=edit.position,
                code=code,
                field=field,
                detail=detail,
                remedy=remedy,
                prompt=edit.prompt,
                target=edit.target,
                other_edit_id=other_id,
            )
        )
    return problems


def decide(batch: Batch, actor: Actor, reason: str) -> None:
    """Record who made the final decision on the batch, and why. Its approvals stand."""
    batch.decided_by = actor.name
    batch.decided_at = func.now()
    batch.reason = reason


def record_decision(session: Session, details: Details, batch: Batch, actor: Actor, reason: str) -> None:
    """Record the event of the decision."""
    session.flush()
    session.refresh(batch)  # read the time of the decision
    events.record(session, details, actor, batch, reason)


def _wrong_state(batch: Batch, wish: str) -> WrongState:
    by = f" by {batch.decided_by}" if batch.decided_by else ""
    stop = f" To stop this one: melo batch cancel {batch.id} --reason …" if batch.state in DECIDED else ""
    return WrongState(
        f"Batch {batch.id} cannot be {wish}: it is {batch.state}{by}.",
        f"Only a batch that is submitted, failed or cancelled can be decided on.{stop}",
    )
