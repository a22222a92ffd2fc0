"""The details of audit events: one frozen class per action, whose fields are the keys of the JSON that is stored.

A field whose default is None is left out of the JSON where it is None; every other field is always there.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from types import MemberDescriptorType
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError

from registry.base.vocabulary import Action
from registry.tables.audit import AuditEvent


def _json_key(name: str) -> str:
    return name.removesuffix("_")  # from_, because `from` is a word of Python


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An object in the JSON of an event's details."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", alias_generator=_json_key, defer_build=True)

    def stored(self) -> dict[str, Any]:
        """Return the JSON that an event holds."""
        values = asdict(self)
        left_out = {field.name for field in fields(self) if field.default is None and values[field.name] is None}
        return {_json_key(name): value for name, value in values.items() if name not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class Details(Part):
    """The details of one action's events."""

    action: ClassVar[Action]
    adapter: ClassVar[TypeAdapter[Any]]

    @classmethod
    def parse(cls, stored: object) -> Self:
        """Return what was stored. Raises ValidationError if it does not fit the class exactly."""
        parsed: Self = cls.adapter.validate_json(json.dumps(stored), strict=True)
        return parsed


_P = TypeVar("_P", bound=Part)
_D = TypeVar("_D", bound=Details)
BY_ACTION: dict[str, type[Details]] = {}


def read(kind: type[_D], event: AuditEvent | None) -> _D | None:
    """Return an event's details.

    kind: the class of one action, or one that several actions share. Returns None if there is no event, if it is of
    another action, or if its details do not fit, which verifying the chain of events reports.
    """
    found = BY_ACTION.get(event.action) if event else None
    if event is None or found is None or not issubclass(found, kind):
        return None
    try:
        return found.parse(event.details)
    except ValidationError:
        return None


def misfit(action: object, stored: object) -> str | None:
    """Return what is wrong with the details stored for an action, or None if they fit its class."""
    if not isinstance(action, str) or action not in BY_ACTION:
        return f"its action is {action!r}, which this program does not know"
    try:
        BY_ACTION[action].parse(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        return f"its details do not fit its action: {where}: {first['msg']}"
    return None


def key(field: object) -> str:
    """Return the JSON key of a field, such as `AliasSet.to`, for a query that reads it."""
    return _json_key(cast(MemberDescriptorType, field).__name__)  # what a class with slots has in a field's place


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _frozen(kind: type[_P]) -> type[_P]:
    """Make a dataclass. Its slots, which `key` reads from the class, are not told to mypy, which would refuse that."""
    return dataclass(frozen=True, slots=True, kw_only=True)(kind)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _of(action: Action) -> Callable[[type[_D]], type[_D]]:
    """Make a dataclass, and the details of an action of it."""

    def made(kind: type[_D]) -> type[_D]:
        frozen = _frozen(kind)
        frozen.action, frozen.adapter = action, TypeAdapter(frozen)
        BY_ACTION[action] = frozen
        return frozen

    return made


# Collections


@_frozen
class Policy(Part):
    approvals_needed: int
    approvers: list[str]
    self_approval: bool
    preflight: str
    left_alone_needed: str | None  # a share, as float.hex()
    preflight_limits: dict[str, int]
    log_share: str  # of responses whose answers are logged, as float.hex()
    log_text: bool
    log_days: int


@_of(Action.COLLECTION_CREATE)
class CollectionCreate(Policy, Details):
    model: str
    encoder: str  # its name
    calibration: str | None = None  # SHA-256


@_of(Action.COLLECTION_CALIBRATE)
class CollectionCalibrate(Details):
    encoder: str  # its digest
    calibration: str | None  # SHA-256


@_of(Action.POLICY_CHANGE)
class PolicyChange(Details):
    before: Policy
    after: Policy


@_frozen
class QueueChange(Details):
    before: str
    after: str


@_of(Action.QUEUE_PAUSE)
class QueuePause(QueueChange):
    pass


@_of(Action.QUEUE_DRAIN)
class QueueDrain(QueueChange):
    pass


@_of(Action.QUEUE_OPEN)
class QueueOpen(QueueChange):
    pass


# Batches


@_of(Action.BATCH_SUBMIT)
class BatchSubmit(Details):
    edits: int  # stored
    records: str  # one digest over what it says of each edit, in their order
    source: str
    skipped: int  # records left out
    priority: str | None = None  # None: normal
    deadline: str | None = None
    training: dict[str, Any] | None = None  # the settings that differ from the collection's
    preflight: int | None = None  # its job
    work: str | None = None  # a digest over that job's seed and settings


@_of(Action.BATCH_APPROVE)
class BatchApprove(Details):
    submitted_by: str
    approval: int
    declined: list[int]
    approvals: list[str]  # by whom, as far as they count
    approvals_needed: int
    cancelled_preflights: list[int] | None = None  # these three: of the last approval needed alone
    job: int | None = None
    work: str | None = None  # a digest over the job's seed and settings


@_of(Action.BATCH_REJECT)
class BatchReject(Details):
    submitted_by: str
    cancelled_preflights: list[int]


@_of(Action.BATCH_CANCEL)
class BatchCancel(Details):
    submitted_by: str
    jobs: list[int]


@_frozen
class JobAttempt(Details):
    job: int
    attempt: int


@_of(Action.BATCH_PREFLIGHT)
class BatchPreflight(JobAttempt):
    edits: int | None = None  # in its report
    blocks: int | None = None  # that it trained
    trained: str | None = None  # these two: digests over the blocks and points that it stored, and over its report
    report: str | None = None
    error: str | None = None  # SHA-256; of a preflight that failed, which has no report


@_of(Action.BATCH_TRAIN)
class BatchTrain(JobAttempt):
    device: str


@_of(Action.BATCH_RETURN)
class BatchReturn(JobAttempt):
    pass


@_of(Action.BATCH_FAIL)
class BatchFail(JobAttempt):
    error: str  # SHA-256


# Edits


@_of(Action.EDIT_ERASE)
class EditErase(Details):
    batch: int
    blocks: list[str]  # these three: digests
    points: list[str]
    clusters: list[str]


@_frozen
class EditNear(Details):
    """An edit that came near another one."""

    edit: int
    by_edit: int
    version: int
    distance: str  # with six decimals


@_of(Action.EDIT_OVERLAP)
class EditOverlap(EditNear):
    pass


@_of(Action.EDIT_FORGET)
class EditForget(EditNear):
    pass


# Versions and aliases


@_frozen
class VersionMade(Details):
    message: str
    author: str
    made_at: str
    counts: list[int]  # of edits, clusters and blocks


@_of(Action.VERSION_APPLY)
class VersionApply(VersionMade):
    batch: int
    job: int
    edits: list[int]
    replaced: list[int]
    submitted_by: str
    approved_by: str | None
    trained: str  # as for a preflight: digests over what the job stored and reported
    report: str


@_of(Action.VERSION_RETIRE)
class VersionRetire(VersionMade):
    edits: list[int]


@_of(Action.VERSION_REVERT)
class VersionRevert(VersionMade):
    reverts: int
    edits: list[int]  # that no longer act
    edits_back: list[int]  # that act again


@_of(Action.VERSION_ROLLBACK)
class VersionRollback(VersionMade):
    to: int


@_of(Action.ALIAS_SET)
class AliasSet(Details):
    from_: int | None
    to: int
    set_at: str
    second: int | None = None
    share: str | None = None  # of users whom the second answers, as float.hex(); None: it is a shadow


@_frozen
class AliasRole(Details):
    """The role that setting an alias needs; None: no particular one."""

    from_: str | None
    to: str | None


@_of(Action.ALIAS_PROTECT)
class AliasProtect(AliasRole):
    pass


@_of(Action.ALIAS_UNPROTECT)
class AliasUnprotect(AliasRole):
    pass


# Answers


@_of(Action.FEEDBACK_GIVE)
class FeedbackGive(Details):
    response: str
    rating: str
    version: int | None  # these two as logged; None: the answer is not in the log, or the base model gave it
    edit: int | None
    batch: int | None = None  # the draft made of it


@_of(Action.ANSWERS_ERASE)
class AnswersErase(Details):
    answers: int  # how many
    feedback: int


# Access and webhooks


@_frozen
class KeyRole(Part):
    role: str
    collection: str | None  # None: all


@_of(Action.KEY_CREATE)
class KeyCreate(Details):
    name: str
    actor: str
    prefix: str
    roles: list[KeyRole]
    expires_at: str | None


@_of(Action.KEY_REVOKE)
class KeyRevoke(Details):
    name: str
    prefix: str


@_of(Action.SIGNER_REPLACE)
class SignerReplace(Details):
    from_: str  # the public key that signed up to this event
    to: str


@_of(Action.WEBHOOK_CREATE)
class WebhookCreate(Details):
    host: str  # alone: a URL's path or query may contain a secret
    events: list[str]
    secret: str  # SHA-256


@_of(Action.WEBHOOK_DELETE)
class WebhookDelete(Details):
    pass
