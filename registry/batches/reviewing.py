"""What a reviewer has to see of a batch besides its edits: what they replace, warnings, and changes of the policy."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from registry.audit.details import Policy, PolicyChange, read
from registry.base.digests import prompt_key
from registry.base.vocabulary import Action
from registry.batches.schemas import SHOWN_EDITS, PolicyChangeView, ReplacingEdit
from registry.edits import repository
from registry.edits.appearance import gravest_first, warnings_of
from registry.edits.schemas import EditWarning
from registry.jobs.schemas import EditPreflight
from registry.tables.audit import AuditEvent
from registry.tables.edits import Batch, Edit

_DECIDES = ("approvals_needed", "approvers", "self_approval", "preflight", "left_alone_needed")
_AROUND = timedelta(days=1)  # a policy may be changed just before a batch is submitted, or back after its decision
_MOST_CHANGES = 20
_MOST_COMPARED = 10_000  # edits


def replacements(session: Session, batch: Batch, report: Sequence[EditPreflight]) -> tuple[list[ReplacingEdit], int]:
    """Return what the batch's edits take the place of, and how many there are.

    The first SHOWN_EDITS, those of another prompt before the others: they are what a reviewer has to see.
    """
    old = aliased(Edit)
    of_batch = (Edit.batch_id == batch.id, Edit.replaces.is_not(None))
    count = session.scalar(select(func.count()).select_from(Edit).where(*of_batch)) or 0
    if not count:
        return [], 0
    query = select(Edit, old).join(old, old.id == Edit.replaces).where(*of_batch)
    found = session.execute(query.order_by(Edit.prompt_key == old.prompt_key, Edit.position).limit(SHOWN_EDITS)).all()
    told = {each.edit_id: each for each in report}
    return [
        ReplacingEdit(
            edit_id=edit.id,
            prompt=edit.prompt,
            target=edit.target,
            replaced_id=replaced.id,
            replaced_prompt=replaced.prompt,
            replaced_target=replaced.target,
            same_prompt=edit.prompt_key == replaced.prompt_key,
            distance=told[edit.id].replaced_distance if edit.id in told else None,
        )
        for edit, replaced in found
    ], count


def warnings(session: Session, batch: Batch, report: Sequence[EditPreflight]) -> list[EditWarning]:
    """Return the preflight's warnings, the gravest first; before it is done, what the texts of the edits give.

    A preflight compares with all edits that act, and by distance too; the texts are compared with those of the same
    prompt and with the newest others.
    """
    if report:
        return gravest_first(warning for each in report for warning in each.warnings)
    edits = repository.texts_of_batch(session, batch.id)
    keys = {prompt_key(text, edit.kind) for edit in edits for text in (edit.prompt, *edit.rephrases)}
    rivals = repository.standing_by_key(session, batch.collection_id, keys, except_batch=batch.id)
    named = {rival.id for rival in rivals} | {edit.replaces for edit in edits if edit.replaces is not None}
    others = [edit for edit in repository.by_ids(session, named) if edit.erased_at is None]
    newest = repository.standing_texts(session, batch.collection_id, except_batch=batch.id, most=_MOST_COMPARED)
    return gravest_first(warnings_of(edits, [*others, *newest]))


def policy_changes(session: Session, batch: Batch) -> list[PolicyChangeView]:
    """Return how the policy for decisions was changed around the batch, in order: from a day before its submission to
    a day after its decision."""
    query = (
        select(AuditEvent)
        .where(AuditEvent.collection_id == batch.collection_id, AuditEvent.action == Action.POLICY_CHANGE)
        .where(AuditEvent.at >= batch.submitted_at - _AROUND)
        .order_by(AuditEvent.seq.desc())
    )
    if batch.decided_at is not None:
        query = query.where(AuditEvent.at <= batch.decided_at + _AROUND)
    found = []
    for event in session.scalars(query.limit(_MOST_CHANGES)):
        change = read(PolicyChange, event)
        if change is None or not (differing := _differing(change)):
            continue
        found.append(
            PolicyChangeView(
                at=event.at,
                by=event.actor,
                reason=event.reason,
                before={name: _value(change.before, name) for name in differing},
                after={name: _value(change.after, name) for name in differing},
                detail=_told(change, differing, event.at),
            )
        )
    return found[::-1]


def _differing(change: PolicyChange) -> list[str]:
    return [name for name in _DECIDES if getattr(change.before, name) != getattr(change.after, name)]


def _value(policy: Policy, name: str) -> object:
    value = getattr(policy, name)
    return float.fromhex(value) if name == "left_alone_needed" and value is not None else value


def _told(change: PolicyChange, differing: Sequence[str], at: datetime) -> str:
    was = " and ".join(_in_words(change.before, name) for name in differing)
    now = " and ".join(_in_words(change.after, name) for name in differing)
    return f"The policy was {was} until {at:%Y-%m-%d %H:%M} UTC, then {now}."


def _in_words(policy: Policy, name: str) -> str:
    value = _value(policy, name)
    if name == "approvals_needed":
        return "1 approval" if value == 1 else f"{value} approvals"
    if name == "approvers":
        return f"by {', '.join(policy.approvers)}" if policy.approvers else "by anyone with the role"
    if name == "self_approval":
        return "submitters' own approvals counting" if value else "submitters' own approvals not counting"
    if name == "preflight":
        return "no preflight" if value == "none" else f"a preflight of {value}"
    return "no near misses to be left alone" if value is None else f"{value:.1%} of near misses to be left alone"
