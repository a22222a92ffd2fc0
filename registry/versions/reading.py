"""Reads versions: lists them, shows one, and finds the one that a name or a time refers to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from registry.base.errors import InvalidRequest
from registry.collections import repository as collection_rows
from registry.collections import service as collections
from registry.edits import repository as edits
from registry.edits.schemas import ApprovalView
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.versions import aliases, comparing, repository, service
from registry.versions.erased import require_whole
from registry.versions.schemas import VersionAtView, VersionDetail, VersionView


@dataclass(frozen=True)
class NamedVersion:
    """A name that can be asked, and the version that it refers to now."""

    name: str
    collection: str
    model: str
    number: int  # 0: the base model
    since: datetime


@dataclass(frozen=True)
class Resolved:
    """The version that a model name refers to now."""

    collection: Collection
    number: int  # 0: the base model
    content_digest: str


def resolve(session: Session, model: str) -> Resolved:
    """Resolve `collection@production`, `@17`, `@base`, `@latest`, or the bare name (its newest version).

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
            raise InvalidRequest(f"{which} is no version number.", f"`melo version list {name}` lists them.")
        number = int(which)
    else:
        number = aliases.target(session, collection, which)
    if number == 0:
        return Resolved(collection, 0, repository.base_digest(session, collection))
    return Resolved(collection, number, service.get(session, collection, number).content_digest)


def named(session: Session, model_digest: str, among: frozenset[int] | None) -> list[NamedVersion]:
    """Return the names over a base model: of each collection @base, @latest and the aliases."""
    found = collection_rows.over_model(session, model_digest, among)
    newest = collection_rows.newest_versions(session, [collection.id for collection in found])
    pointing = collection_rows.current_aliases(session, [collection.id for collection in found])
    names = []
    for collection in found:
        since, (latest, _) = collection.created_at, newest.get(collection.id, (0, 0))
        said = [("base", 0, since), ("latest", latest, since)]
        said += [(alias.name, alias.number, alias.set_at) for alias in pointing if alias.collection_id == collection.id]
        names += [
            NamedVersion(f"{collection.name}@{name}", collection.name, collection.model, number, since)
            for name, number, since in said
        ]
    return names


def require_servable(session: Session, collection_id: int, number: int) -> None:
    """Raise Erased if a version holds an edit whose content was erased meanwhile."""
    version = repository.by_number(session, collection_id, number)
    if version is not None:
        require_whole(session, collection_id, number, version.content_version)


def page(session: Session, collection: Collection, *, before: int | None, limit: int) -> list[VersionView]:
    """Return versions newest first, each with the aliases that point at it."""
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


def show(session: Session, collection: Collection, number: int) -> VersionDetail:
    """Return a version with its content and changes. Raises NotFound."""
    version = service.get(session, collection, number)
    changed = comparing.diff(session, collection, number - 1, number, limit=0).edits
    return VersionDetail(
        **view(session, collection, version).model_dump(),
        parent=number - 1,
        content_version=version.content_version,
        cluster_count=version.cluster_count,
        block_count=version.block_count,
        changed=changed,
        approvals=[
            ApprovalView.model_validate(approval)
            for approval in (edits.approvals(session, version.batch_id) if version.batch_id else ())
        ],
    )


def version_at(session: Session, collection: Collection, moment: datetime) -> Version | None:
    """Return the version that was newest at a given time, or None if there was none yet."""
    return repository.version_at(session, collection.id, moment)


def view_at(session: Session, collection: Collection, moment: datetime) -> VersionAtView:
    version = version_at(session, collection, moment)
    return VersionAtView(
        time=moment,
        number=version.number if version else 0,
        version=view(session, collection, version) if version else None,
    )
