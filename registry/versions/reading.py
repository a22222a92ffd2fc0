"""Looking at versions: listing them, comparing two, and finding the one that a model name means."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.collections import repository as collection_rows
from registry.collections import service as collections
from registry.collections.models import Collection
from registry.edits import repository as edits
from registry.edits.models import Edit
from registry.edits.schemas import EditView
from registry.errors import InvalidRequest
from registry.versions import aliases, repository, service
from registry.versions.models import Version
from registry.versions.schemas import ChangeCount, DiffView, ReplacedView, VersionView


@dataclass(frozen=True)
class Resolved:
    """What a model name means at this moment."""

    collection: Collection
    number: int  # 0: the base model
    content_digest: str


def resolve(session: Session, model: str) -> Resolved:
    """The version that `collection@production`, `@17`, `@base`, `@latest`, or the bare name (its newest) means.

    Raises NotFound, or InvalidRequest for a name of another form.
    """
    name, at, which = model.partition("@")
    if not name or (at and not which):
        raise InvalidRequest(f"{model!r} names no version.", "Write collection@alias, or collection@number.")
    collection = collections.get(session, name)
    newest = repository.latest(session, collection.id)
    if which in ("", "latest"):
        number = newest.number if newest else 0
    elif which == "base":
        number = 0
    elif which.isascii() and which.isdigit():
        if len(which) > 9:
            raise InvalidRequest(f"{which} is no version number.", f"`melo versions {name}` lists them.")
        number = int(which)
    else:
        number = aliases.target(session, collection, which)
    if number == 0:
        return Resolved(collection, 0, repository.digest_in(session, collection, 0))
    return Resolved(collection, number, service.get(session, collection, number).content_digest)


def page(session: Session, collection: Collection, *, before: int | None, limit: int) -> list[VersionView]:
    """Newest first, each with the aliases that point at it."""
    return _views(session, collection, repository.page(session, collection.id, before=before, limit=limit))


def view(session: Session, collection: Collection, version: Version) -> VersionView:
    return _views(session, collection, [version])[0]


def _views(session: Session, collection: Collection, versions: Sequence[Version]) -> list[VersionView]:
    pointing: dict[int, list[str]] = {}
    for alias in collection_rows.current_aliases(session, [collection.id]):
        pointing.setdefault(alias.number, []).append(alias.name)
    return [
        VersionView.model_validate(version).model_copy(update={"aliases": pointing.get(version.number, [])})
        for version in versions
    ]


def diff(session: Session, collection: Collection, a: int, b: int) -> DiffView:
    """What version b has that a has not, and the reverse. Raises NotFound."""
    digests = [
        service.get(session, collection, number).content_digest
        if number
        else repository.digest_in(session, collection, 0)
        for number in (a, b)
    ]
    in_a, in_b = (set(repository.active_edit_ids(session, collection.id, number)) for number in (a, b))
    added = edits.by_ids(session, in_b - in_a)
    retired = edits.by_ids(session, in_a - in_b)
    replaced = _replacements(retired, added)
    old, new = {pair[0].id for pair in replaced}, {pair[1].id for pair in replaced}
    return DiffView(
        a=a,
        b=b,
        same_content=digests[0] == digests[1],
        added=[EditView.model_validate(edit) for edit in added if edit.id not in new],
        retired=[EditView.model_validate(edit) for edit in retired if edit.id not in old],
        replaced=[
            ReplacedView(old=EditView.model_validate(before), new=EditView.model_validate(after))
            for before, after in replaced
        ],
        clusters=_clusters_changed(session, collection.id, a, b),
        blocks=_blocks_changed(session, collection.id, a, b),
    )


def _replacements(retired: Sequence[Edit], added: Sequence[Edit]) -> list[tuple[Edit, Edit]]:
    """Pairs of which the second says that it replaces the first, or has the same prompt."""
    by_id = {edit.id: edit for edit in retired}
    by_prompt = {edit.prompt_key: edit for edit in retired}
    pairs = []
    for edit in added:
        before = by_id.get(edit.replaces or 0) or by_prompt.get(edit.prompt_key)
        if before is not None:
            pairs.append((before, edit))
    return pairs


def _clusters_changed(session: Session, collection_id: int, a: int, b: int) -> ChangeCount:
    before, after = (repository.cluster_digests_in(session, collection_id, number) for number in (a, b))
    kept = before.keys() & after.keys()
    return ChangeCount(
        added=len(after.keys() - kept),
        removed=len(before.keys() - kept),
        changed=sum(before[no] != after[no] for no in kept),
    )


def _blocks_changed(session: Session, collection_id: int, a: int, b: int) -> ChangeCount:
    before, after = (repository.block_ids_in(session, collection_id, number) for number in (a, b))
    return ChangeCount(added=len(after - before), removed=len(before - after), changed=0)
