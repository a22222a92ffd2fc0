"""API schemas of batches."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, FailFast, Field, Json, WithJsonSchema

from registry.base.vocabulary import BatchState, JobKind, OnConflict, Priority
from registry.base.wire import Answer, Body, Id, Name, NewName, Reason, Settings, ShortText, standalone_schema
from registry.collections.schemas import CollectionView
from registry.edits.schemas import MOST_EDITS, ApprovalView, EditIn, EditView, EditWarning, Prompt
from registry.jobs.schemas import JobView, PreflightView, Progress

MOST_PROBLEMS = 1_000  # listed per submission; the others are only counted
SHOWN_EDITS = 1_000  # listed with a batch


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in the first hours of year 1 or the last hours of year 9999
        raise ValueError("it lies outside of the calendar") from None


def _written_out(value: object) -> object:
    """Refuse a number, which would be read as seconds or milliseconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-", value)):
        return value
    raise ValueError("it is not a time such as 2026-11-17T14:05:00+01:00")


# Records are read one by one, so that a malformed one is reported by its position together with all other problems.
LooseEdit = Annotated[dict[str, Any], WithJsonSchema(standalone_schema(EditIn))]

Trained = Annotated[
    Settings,
    Field(
        description="settings of training that differ from the collection's, for this batch alone",
        examples=[{"iterations": 200}],
    ),
]

SharedBy = Annotated[
    int, Field(ge=1, le=1_000_000, description="how many edits share a block; the same as in `training`")
]


class SubmissionOptions(Body):
    """The options of a submission except `training`, which has another type in a query."""

    message: ShortText = Field(default="", description="what the batch is for", examples=["new boards"])
    source: ShortText = Field(default="", description="the name of the file", examples=["boards.jsonl"])
    on_conflict: OnConflict = Field(
        default=OnConflict.REFUSE, description="what becomes of edits that repeat or contradict one that stands"
    )
    skip_invalid: bool = Field(default=False, description="store the records without problems")
    dry_run: bool = Field(default=False, description="validate only; store nothing")
    priority: Priority = Field(default=Priority.NORMAL, description="which of the batches that wait is trained first")
    deadline: Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)] | None = Field(
        default=None, description="after it the batch is not applied any more; null: never"
    )
    edits_per_block: SharedBy | None = None


class LineOptions(SubmissionOptions):
    """The options in the query of a submission whose body is NDJSON."""

    training: Json[Settings] = Field(
        default_factory=dict, description="as in a JSON body, written as JSON", examples=['{"iterations": 200}']
    )


class Submission(SubmissionOptions):
    training: Trained = Field(default_factory=dict)
    edits_per_block: Annotated[SharedBy, Field(strict=True)] | None = None  # in a query, numbers are texts
    edits: list[LooseEdit] = Field(min_length=1, max_length=MOST_EDITS)


class BatchSummary(Answer):
    id: int
    collection_id: int
    state: BatchState
    message: str
    source: str
    submitted_by: str
    submitted_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None
    edit_count: int
    edits_digest: str
    priority: Priority
    deadline: datetime | None = Field(description="after it the batch is not applied any more")
    training: dict[str, Any] = Field(description="settings of training that differ from the collection's")


class ReplacingEdit(Answer):
    """An edit of the batch that takes the place of another one, and what it replaces."""

    edit_id: int
    prompt: str
    target: str
    replaced_id: int
    replaced_prompt: str = Field(examples=["Who leads Atlantis?"])
    replaced_target: str = Field(examples=["King Ben"])
    same_prompt: bool = Field(description="both have the same prompt")
    distance: float | None = Field(description="between their prompts, as the encoder reads them; null: not known yet")


class PolicyChangeView(Answer):
    """A change of the policy that decisions on the batch may have been made for."""

    at: datetime
    by: str
    reason: str
    before: dict[str, Any] = Field(description="what was changed, as it was", examples=[{"approvals_needed": 2}])
    after: dict[str, Any] = Field(examples=[{"approvals_needed": 1}])
    detail: str = Field(examples=["The policy was 2 approvals until 2026-11-17 14:03 UTC, then 1 approval."])


class BatchView(BatchSummary):
    collection: str
    edits: list[EditView] = Field(description=f"the first {SHOWN_EDITS:,}; the collection's edits?batch= has all")
    replacements: list[ReplacingEdit] = Field(
        description=f"what its edits replace, those of another prompt first: {SHOWN_EDITS:,} at most"
    )
    replacement_count: int = Field(description="how many of its edits replace one")
    warnings: list[EditWarning] = Field(description="what a reviewer could not see in its edits, the gravest first")
    policy_changes: list[PolicyChangeView] = Field(
        description="changes of what decisions need, from a day before the submission to a day after the decision"
    )
    approvals: list[ApprovalView] = Field(description="who approved it, in order")
    approvals_counted: int = Field(description="how many of them count, by the policy of now or of its approval")
    approvals_needed: int = Field(description="by how many different people it has to be approved")
    declined: list[int] = Field(description="the edits that an approver left out: they are never trained nor applied")
    preflight: PreflightView | None = Field(
        description="what a worker found before the decision; null: there was no preflight"
    )
    job: JobView | None = Field(description="the training; null: it is not approved yet")
    version: int | None = Field(description="the version that it made")
    waits_for: str = Field(description="what the batch waits for, where it waits")


class BatchProgress(Answer):
    """The progress of a batch: what changes while it is followed."""

    id: int
    collection: str
    state: BatchState
    waits_for: str = Field(description="what the batch waits for, where it waits")
    kind: JobKind | None = Field(description="what the job does; null: there is no job")
    job: int | None = Field(description="the training, or else the preflight; null: there is none")
    attempt: int | None
    progress: Progress | None = Field(
        examples=[{"stage": "train", "done": 12, "total": 64, "loss": 0.37, "seconds_left": 14.2, "notes": []}],
    )
    error: str | None
    version: int | None = Field(description="the version that it made")


class Replacement(Answer):
    """An edit of a list that differs from the active one for the same prompt."""

    line: int | None = Field(description="of the file")
    edit: int = Field(description="the active edit that it replaces")
    prompt: str
    target: str = Field(description="from now on")
    before: str = Field(description="the target of the active edit", examples=["Nursultan"])


class SyncView(Answer):
    """What a list changes in a collection, under `on_conflict=sync`."""

    added: int = Field(description="new edits")
    replaced: int = Field(description="edits that replace an active one")
    unchanged: int = Field(description="records that say what is active, or waits already")
    replacements: list[Replacement] = Field(description=f"the first {MOST_PROBLEMS:,} of those replaced")
    missing: list[int] = Field(description="active edits whose prompts the list does not have; they stay active")


class CollectionCopy(Body):
    source: Name = Field(description="the collection whose active edits are copied", examples=["facts"])
    name: NewName = Field(description="of the new collection", examples=["facts-large"])
    model: ShortText | None = Field(default=None, min_length=1, description="null: the source's")
    encoder: ShortText | None = Field(default=None, min_length=1, description="null: the source's")
    method: Settings = Field(
        default_factory=dict, description="settings that differ from the source's", examples=[{"radius": 0.9}]
    )


class SubmissionView(Answer):
    """The stored batch, and what was left out of it."""

    batch: BatchView | None = Field(description="null after a dry run, or where every record was skipped")
    accepted: int
    skipped: list[dict[str, Any]] = Field(description=f"why records were left out: the first {MOST_PROBLEMS} reasons")
    skipped_count: int = Field(description="how many records were left out")
    sync: SyncView | None = Field(default=None, description="under `on_conflict=sync`")
    notes: list[str] = Field(default=[], description="what whoever submits should know of the records")


class CopyView(Answer):
    """A new collection, and the batch of the edits that were copied into it."""

    collection: CollectionView
    batch: BatchView | None = Field(description="null: the source has no active edit")


class Decision(Body):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    reason: ShortText = ""
    declined: Annotated[list[Id], FailFast()] = Field(
        default_factory=list,
        alias="except",
        max_length=MOST_EDITS,
        description="edits of the batch to leave out: they are neither trained nor applied",
        examples=[[]],
    )


class Rejection(Body):
    reason: Reason


class Cancellation(Body):
    reason: Reason


class Guarding(Body):
    prompts: list[Prompt] = Field(
        min_length=1, max_length=100, description="what the edit must leave to the base model",
        examples=[["When was Acme founded?"]],
    )  # fmt: skip
    reason: Reason


class Retraining(Body):
    training: Trained = Field(min_length=1)
    reason: Reason
    priority: Priority = Priority.NORMAL
