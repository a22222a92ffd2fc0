"""An edit's life: submission, decisions, training, the versions in which it became active or inactive, and by whom."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from registry.audit import repository as audit
from registry.audit.details import BatchApprove, EditNear, read
from registry.base.errors import NotFound
from registry.base.vocabulary import VersionKind
from registry.collections import repository as collections
from registry.edits import repository as edits
from registry.edits.schemas import EditView
from registry.tables.edits import Edit
from registry.tables.versions import Version
from registry.versions import differences
from registry.versions.schemas import EditLogEntry, EditLogView

_EVENTS = 1_000  # per batch or edit; more than any has


def edit_log(session: Session, edit_id: int) -> EditLogView:
    """Return everything that the record knows of an edit, in chronological order. Raises NotFound."""
    found = edits.by_ids(session, [edit_id])
    if not found:
        raise NotFound(f"There is no edit {edit_id}.", "`melo edit list COLLECTION` shows those that exist.")
    edit = found[0]
    switches = differences.switches_of_edit(session, edit.collection_id, edit.id)
    successors = edits.successors(session, edit, [version.batch_id for version, acts in switches if not acts])
    entries = [
        *_events(session, f"batch/{edit.batch_id}", edit.id),
        *_events(session, f"edit/{edit.id}", edit.id),
        *(_switch(version, acts, edit, successors) for version, acts in switches),
    ]
    return EditLogView(
        edit=EditView.model_validate(edit),
        collection=collections.by_id(session, edit.collection_id).name,
        active=bool(switches) and switches[-1][1],
        entries=sorted(entries, key=lambda entry: entry.at),
    )


def _events(session: Session, subject: str, edit_id: int) -> Iterable[EditLogEntry]:
    for event in audit.page(session, collection_id=None, subject=subject, before=None, limit=_EVENTS):
        approval, near = read(BatchApprove, event), read(EditNear, event)
        yield EditLogEntry(
            at=event.at,
            what="decline" if approval and edit_id in approval.declined else event.action.rpartition(":")[2],
            who=event.actor,
            why=event.reason,
            subject=event.subject,
            acts=None,
            version=near.version if near else None,
            other_edit=near.by_edit if near else None,
        )


def _switch(version: Version, acts: bool, edit: Edit, successors: dict[int, int]) -> EditLogEntry:
    replaced_by = successors.get(version.batch_id or 0) if not acts else None
    return EditLogEntry(
        at=version.created_at,
        what="replace" if version.kind == VersionKind.APPLY and not acts else version.kind,
        who=version.author,
        why=version.reason or version.message,
        subject=f"version/{version.number}",
        acts=acts,
        version=version.number,
        other_edit=replaced_by if replaced_by is not None else (edit.replaces if acts else None),
    )
