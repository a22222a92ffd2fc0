"""API schemas of versions, their differences, and aliases and their protection."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from registry.base.vocabulary import Role, VersionKind
from registry.base.wire import Answer, Body, Id, Reason, ShortText, VersionNumber
from registry.edits.schemas import ApprovalView, EditView


class VersionView(Answer):
    number: int
    kind: VersionKind
    message: str
    reason: str
    purpose: str = Field(
        default="", examples=["the new board"],
        description="what it was made for: its batch's message, or else the one reason of its edits; of a version "
        "without a batch, the reason of who made it",
    )  # fmt: skip
    author: str
    batch_id: int | None
    restores: int | None
    reverts: int | None = Field(description="the version whose change it takes back")
    content_digest: str
    edit_count: int
    created_at: datetime
    aliases: list[str] = Field(default_factory=list, description="the aliases that point at it now")


class EditCounts(Answer):
    """The numbers of edits that differ between two versions."""

    added: int
    retired: int
    replaced: int


class VersionDetail(VersionView):
    """A version, its content and its changes."""

    parent: int = Field(description="the version before it, which it changed; 0: the base model")
    content_version: int = Field(description="the version whose content it has: itself, or what a rollback restored")
    cluster_count: int
    block_count: int
    changed: EditCounts = Field(description="the edits that it added, retired and replaced")
    approvals: list[ApprovalView] = Field(description="of the batch that it applies")


class VersionAtView(Answer):
    """The version that was newest at a given time."""

    time: datetime
    number: int = Field(description="0: the base model, since there was no version yet")
    version: VersionView | None


class EditLogEntry(Answer):
    """An entry in an edit's log."""

    at: datetime
    what: str = Field(
        description="such as submit, preflight, approve, decline, train, apply, replace, retire, revert, rollback, "
        "overlap"
    )
    who: str
    why: str
    subject: str = Field(description="the record that changed, such as batch/3 or version/7")
    acts: bool | None = Field(description="whether the edit acts from here on; null: it made no difference")
    version: int | None
    other_edit: int | None = Field(description="the edit that it replaced, that replaced it, or that it met")


class EditLogView(Answer):
    edit: EditView
    collection: str
    active: bool = Field(description="whether it acts in the newest version")
    entries: list[EditLogEntry] = Field(description="in the order in which they happened")


class ReplacedView(Answer):
    old: EditView
    new: EditView


class ChangeCount(Answer):
    added: int
    removed: int
    changed: int


class DiffView(Answer):
    a: int
    b: int
    same_content: bool
    edits: EditCounts = Field(description="how many there are; the lists may show fewer")
    added: list[EditView]
    retired: list[EditView]
    replaced: list[ReplacedView]
    clusters: ChangeCount
    blocks: ChangeCount


class Retirement(Body):
    edits: list[Id] = Field(min_length=1, max_length=100_000)
    reason: Reason
    dry_run: bool = False


class Rollback(Body):
    to: VersionNumber = Field(description="the version whose content comes back; 0: the base model")
    reason: Reason
    dry_run: bool = False


class Reversion(Body):
    version: int = Field(ge=1, le=2**31 - 1, description="the version whose change is taken back", examples=[7])
    reason: Reason
    dry_run: bool = False


class PlannedVersion(Answer):
    """The version that a dry run would create."""

    number: int
    diff: DiffView


class AliasTarget(Body):
    """Where an alias is to point. Without a second version, its canary or shadow ends."""

    version: int = Field(ge=1, le=2**31 - 1)
    second: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="another version: a canary if it has a share, else a shadow"
    )
    share: float | None = Field(
        default=None, gt=0, lt=1, description="the share of users that the canary answers", examples=[0.1]
    )
    reason: ShortText = ""


class AliasView(Answer):
    name: str
    number: int
    second: int | None = Field(description="the version that is its canary or, without a share, its shadow")
    share: float | None = Field(description="the share of users that the canary answers")
    set_by: str
    reason: str
    set_at: datetime
    replaced_at: datetime | None
    unverified: str | None = Field(
        default=None,
        description="in its history: why the event that tells of it does not verify; null: it does, or no key is known",
    )


class ResolvedView(Answer):
    """The version that a model name refers to now, and whether it can be served."""

    collection: str
    collection_id: int
    model: str
    model_digest: str
    number: int = Field(description="0: the base model")
    content_digest: str
    servable: bool = Field(description="false: an edit in it was erased")
    second: int | None = Field(description="the version that is the alias's canary or, without a share, its shadow")
    share: float | None = Field(description="the share of users that the canary answers")


class ShadowSide(Answer):
    """What one of two compared versions answers."""

    version: str
    edit: int | None = Field(description="the edit that acted; null: the base model answered")
    said_to: str | None
    text: str | None = Field(description="null where only routes are compared, as with a classifier")


class ShadowDifference(Answer):
    """A question to which two versions answer differently, or from another edit."""

    at: datetime
    question: str
    first: ShadowSide
    second: ShadowSide


class ShadowReport(Answer):
    """What a server's comparisons of an alias's two versions found, since it follows the shadow."""

    alias: str
    first: str = Field(description="the version that answers users")
    second: str = Field(description="the shadow")
    since: datetime
    compared: int
    same: int
    other_text: int
    other_edit: int = Field(description="also where both texts are the same")
    dropped: int = Field(description="questions that were not compared, since the server was busy")
    failed: int
    error: str | None = Field(description="why the shadow is not asked, where it cannot be served")
    differences: list[ShadowDifference] = Field(description="the last ones, oldest first")


class Protection(Body):
    role: Literal[Role.APPROVER, Role.ADMIN] = Field(default=Role.ADMIN, description="needed to set the alias")
    reason: Reason


class ProtectionView(Answer):
    name: str
    role: Role
    protected_by: str
    reason: str
    protected_at: datetime
