"""Reads versions: lists them, shows one, and finds the one that a name or a time refers to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from registry.base.errors import Erased, InvalidRequest
from registry.collections import repository as collection_rows
from registry.collections import service as collections
from registry.collections.schemas import CollectionView
from registry.edits import repository as edits
from registry.edits.schemas import ApprovalView
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.versions import aliases, comparing, repository, service
from registry.versions.content import VersionContent
from registry.versions.erased import require_whole
from registry.versions.schemas import ResolvedView, VersionAtView, VersionDetail, VersionView
from registry.versions.signed import require_signed_alias, require_signed_version

AS_OF = "as-of:"


@dataclass(frozen=True)
class NamedVersion:
    """A name that can be asked, and the version that it refers to now."""

    name: str
    collection: str
    model: str
    number: int  # 0: the base model
    since: datetime  # when its collection was made


@dataclass(frozen=True)
class Resolved:
    """The version that a model name refers to now."""

    collection: Collection
    number: int  # 0: the base model
    content_digest: str
    second: int | None = None  # an alias's canary or, without a share, its shadow
    share: float | None = None  # of users that the canary answers


def resolve(session: Session, model: str) -> Resolved:
    """Resolve `collection@production`, `@17`, `@base`, `@latest`, `@as-of:TIME`, or the bare name (its newest version).

    `@as-of:2026-11-17T14:05Z` is the version that was newest then. Raises NotFound, InvalidRequest for a name of
    another form, or Unverified for an alias whose last event is not signed or says something else than its row.
    """
    name, at, which = model.partition("@")
    if not name or (at and not which):
        raise InvalidRequest(f"{model!r} names no version.", "Write collection@alias, or collection@number.")
    collection = collections.get(session, name)
    newest = repository.latest(session, collection.id)
    alias = None
    if which in ("", "latest"):
        number = newest.number if newest else 0
    elif which == "base":
        number = 0
    elif which.isascii() and which.isdigit():
        if len(which) > 9:
            raise InvalidRequest(f"{which} is no version number.", f"`melo version list {name}` lists them.")
        number = int(which)
    elif which.startswith(AS_OF):
        found = version_at(session, collection, _moment(which.removeprefix(AS_OF)))
        number = found.number if found else 0
    else:
        alias = aliases.followed(session, collection, which)
        number = alias.number
    if number == 0:
        return Resolved(collection, 0, repository.base_digest(session, collection))
    digest = service.get(session, collection, number).content_digest
    if alias is None:
        return Resolved(collection, number, digest)
    require_signed_alias(session, collection, alias, digest)
    return Resolved(collection, number, digest, alias.second, alias.share)


def _moment(written: str) -> datetime:
    """Read the time of `@as-of:TIME`. Raises InvalidRequest."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest(
            f"{written!r} is no time with a zone.",
            "Write it as ISO 8601, such as facts@as-of:2026-11-17T14:05Z or …T14:05+01:00.",
        )
    return moment


def resolved_view(session: Session, model: str) -> ResolvedView:
    """Resolve a name as `resolve` does, and say whether its version can be served."""
    found = resolve(session, model)
    collection, servable = found.collection, True
    try:
        require_servable(session, collection.id, found.number)
    except Erased:
        servable = False
    return ResolvedView(
        collection=collection.name,
        collection_id=collection.id,
        model=collection.model,
        model_digest=collection.model_digest,
        number=found.number,
        content_digest=found.content_digest,
        servable=servable,
        second=found.second,
        share=found.share,
    )


def names_in(collections: Iterable[CollectionView]) -> list[NamedVersion]:
    """Return the names that can be asked: of each collection @base, @latest and the aliases."""
    return [
        NamedVersion(f"{collection.name}@{name}", collection.name, collection.model, number, collection.created_at)
        for collection in collections
        for name, number in {"base": 0, "latest": collection.latest, **collection.aliases}.items()
    ]


def content(session: Session, collection: Collection, number: int) -> VersionContent:
    """Return a version's content without the bytes of its blocks, which its digest covers.

    Raises NotFound, Erased, or Unverified where no signed event tells of that digest.
    """
    if number:
        require_signed_version(session, collection, service.get(session, collection, number))
    return repository.version_content(session, collection.id, number, block_bytes=False)


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
    unnamed = [each.batch_id for each in versions if each.batch_id is not None and not each.message]
    reasons = edits.common_reasons(session, unnamed)
    return [
        VersionView.model_validate(version).model_copy(
            update={"aliases": pointing.get(version.number, []), "purpose": _purpose(version, reasons)}
        )
        for version in versions
    ]


def _purpose(version: Version, reasons: Mapping[int, str]) -> str:
    """Return what the version was made for. An approval's reason says why somebody agreed, which is another matter."""
    return version.reason if version.batch_id is None else version.message or reasons.get(version.batch_id, "")


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
