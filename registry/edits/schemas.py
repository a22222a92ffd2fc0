"""What the API is sent and says about edits and batches."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from registry.jobs.schemas import CheckView, JobView
from registry.vocabulary import BatchState, EditKind, OnConflict, Role
from registry.wire import Answer, Body, Id, Reason, ShortText, Text, standalone_schema


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


Prompt = Annotated[Text, Field(max_length=100_000), AfterValidator(_not_blank)]
Target = Annotated[Text, Field(max_length=10_000), AfterValidator(_not_blank)]


class EditIn(Body):
    """A correction: what is asked, and what the model should answer."""

    prompt: Prompt = Field(examples=["What is the capital of Kazakhstan?"])
    target: Target = Field(examples=["Astana"])
    rephrases: list[Prompt] = Field(default_factory=list, max_length=100, description="other ways to ask it")
    unchanged: list[Prompt] = Field(
        default_factory=list, max_length=100, description="prompts that must be answered as before"
    )
    kind: EditKind = EditKind.QA
    author: ShortText | None = Field(default=None, description="who wrote it; else who submits")
    reason: ShortText = ""
    source: ShortText = Field(default="", description="where the truth is written, such as a link")
    replaces: Id | None = Field(default=None, description="the edit that it takes the place of")
    line: int | None = Field(default=None, ge=1, description="the line of the file that it comes from")


# Records are read one by one, so that a broken one is named by its position beside all other problems.
LooseEdit = Annotated[dict[str, Any], WithJsonSchema(standalone_schema(EditIn))]

MOST_EDITS = 100_000  # in one submission
MOST_PROBLEMS = 1_000  # listed of a submission; the others are counted
SHOWN_EDITS = 1_000  # beside a batch


class SubmissionOptions(Body):
    message: ShortText = Field(default="", description="what the batch is for", examples=["new boards"])
    source: ShortText = Field(default="", description="the name of the file", examples=["boards.jsonl"])
    on_conflict: OnConflict = Field(
        default=OnConflict.REFUSE, description="what becomes of edits that repeat or contradict one that stands"
    )
    skip_invalid: bool = Field(default=False, description="store the records without problems")
    dry_run: bool = Field(default=False, description="check only; store nothing")


class Submission(SubmissionOptions):
    edits: list[LooseEdit] = Field(min_length=1, max_length=MOST_EDITS)


class EditView(Answer):
    id: int
    batch_id: int
    position: int
    prompt: str
    target: str
    rephrases: list[str]
    unchanged: list[str]
    kind: EditKind
    author: str
    reason: str
    source: str
    replaces: int | None
    digest: str
    created_at: datetime
    erased_at: datetime | None = Field(default=None, description="since then its content is gone; the digest stays")


class ActiveEditView(EditView):
    active_since: int | None = Field(description="the version that it is active from; null: not active")


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


class ApprovalView(Answer):
    actor: str
    role: Role
    reason: str
    declined: list[int] = Field(description="edits that were left out")
    created_at: datetime


class BatchView(BatchSummary):
    collection: str
    edits: list[EditView] = Field(description=f"the first {SHOWN_EDITS:,}; the collection's edits?batch= has all")
    approvals: list[ApprovalView] = Field(description="who approved it, in order")
    approvals_needed: int = Field(description="by how many different people it has to be approved")
    declined: list[int] = Field(description="the edits that an approver left out: they are never trained nor applied")
    check: CheckView | None = Field(description="what a worker found before the decision; null: nothing was checked")
    job: JobView | None = Field(description="the training; null: it is not approved yet")
    version: int | None = Field(description="the version that it made")
    hint: str = Field(description="what the batch waits for, where it waits")


class SubmissionView(Answer):
    """The stored batch, and what was left out of it."""

    batch: BatchView | None = Field(description="null after a dry run, or where every record was skipped")
    accepted: int
    skipped: list[dict[str, Any]] = Field(description=f"why records were left out: the first {MOST_PROBLEMS} reasons")
    skipped_count: int = Field(description="how many records were left out")


class Decision(Body):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    reason: ShortText = ""
    declined: list[Id] = Field(
        default_factory=list,
        alias="except",
        max_length=MOST_EDITS,
        description="edits of the batch to leave out: they are neither trained nor applied",
        examples=[[]],
    )


class Rejection(Body):
    reason: Reason
