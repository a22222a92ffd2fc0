"""What the API is sent and says about versions, their differences and the aliases that point at them."""

from datetime import datetime

from pydantic import Field

from registry.edits.schemas import EditView
from registry.vocabulary import VersionKind
from registry.wire import Answer, Body, Id, Reason, ShortText, VersionNumber


class VersionView(Answer):
    number: int
    kind: VersionKind
    message: str
    reason: str
    author: str
    batch_id: int | None
    restores: int | None
    content_digest: str
    edit_count: int
    created_at: datetime
    aliases: list[str] = Field(default_factory=list, description="the aliases that point at it now")


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


class PlannedVersion(Answer):
    """What a dry run would make."""

    number: int
    diff: DiffView


class AliasTarget(Body):
    version: int = Field(ge=1, le=2**31 - 1)
    reason: ShortText = ""


class AliasView(Answer):
    name: str
    number: int
    set_by: str
    reason: str
    set_at: datetime
    replaced_at: datetime | None


class ResolvedView(Answer):
    collection: str
    number: int
    content_digest: str
