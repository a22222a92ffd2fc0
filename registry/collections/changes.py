"""Names the collections in which something changed, as far as a caller may see them."""

from sqlalchemy.orm import Session

from registry.access import repository
from registry.audit.changes import Changes
from registry.audit.schemas import ChangesView


def view_of(session: Session, changes: Changes, visible: frozenset[int] | None = None) -> ChangesView:
    """Return what a caller is told. visible: the collections that they may see; None: all."""
    if changes.collections is None:
        return ChangesView(seq=changes.seq, collections=None, keys=True)
    ids = changes.collections if visible is None else changes.collections & visible
    names = repository.collection_names(session, sorted(ids)) if ids else {}
    return ChangesView(seq=changes.seq, collections=sorted(names.values()), keys=changes.keys)
