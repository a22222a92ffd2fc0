"""The versions that hold erased content, and the version from which a collection can be served."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from registry.base.errors import Erased, ids_in_words
from registry.tables.collections import Collection
from registry.tables.edits import Edit
from registry.tables.versions import Activation, Version


def require_whole(session: Session, collection_id: int, number: int, state: int) -> None:
    """Raise Erased if a version, given by its number and state, holds an edit whose content was erased."""
    query = (
        select(Edit.id)
        .join(Activation, Activation.edit_id == Edit.id)
        .where(Edit.collection_id == collection_id, Edit.erased_at.is_not(None), Activation.valid.contains(state))
        .order_by(Edit.id)
    )
    gone = session.scalars(query).all()
    if not gone:
        return
    name = session.scalars(select(Collection.name).where(Collection.id == collection_id)).one()
    edits = "edit " + str(gone[0]) if len(gone) == 1 else f"the edits {ids_in_words(gone)}"
    raise Erased(
        f"Version {number} of {name} cannot be served: it holds {edits}, whose content was erased.",
        f"From version {servable_from(session, collection_id, gone)} on, {name} can be served.",
    )


def versions_with(session: Session, collection_id: int, edit_ids: Sequence[int]) -> Sequence[int]:
    """Return the numbers of the versions in which one of the edits is active."""
    return session.scalars(_with(collection_id, edit_ids, Version.number).order_by(Version.number)).all()


def servable_from(session: Session, collection_id: int, edit_ids: Sequence[int]) -> int:
    """Return the number after that of the last version in which one of the edits is active."""
    return (session.scalar(_with(collection_id, edit_ids, func.max(Version.number))) or 0) + 1


def _with(collection_id: int, edit_ids: Sequence[int], column: Any) -> Select[Any]:
    acting = select(Activation.id).where(
        Activation.edit_id.in_(edit_ids), Activation.valid.contains(Version.content_version)
    )
    return select(column).where(Version.collection_id == collection_id, acting.exists())
