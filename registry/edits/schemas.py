"""What the API is sent and says about edits and batches."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from registry.jobs.schemas import JobView
from registry.vocabulary import BatchState, EditKind, OnConflict
from registry.wire import Answer, Body, Id, Reason, ShortText, Text


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
LooseEdit = Annotated[dict[str, Any], WithJsonSchema(EditIn.model_json_schema())]


class Submission(Body):
    edits: list[LooseEdit] = Field(min_length=1, max_length=100_000)
    message: ShortText = ""
    source: ShortText = Field(default="", description="the name of the file")
    on_conflict: OnConflict = OnConflict.REFUSE
    skip_invalid: bool = Field(default=False, description="store the records without problems")
    dry_run: bool = Field(default=False, description="check only; store nothing")


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


class BatchView(BatchSummary):
    collection: str
    edits: list[EditView]
    job: JobView | None
    version: int | None = Field(description="the version that it made")
    hint: str = Field(description="what the batch waits for, where it waits")


class SubmissionView(Answer):
    """The stored batch, and what was left out of it."""

    batch: BatchView | None = Field(description="null after a dry run, or where every record was skipped")
    accepted: int
    skipped: list[dict[str, Any]]


class Decision(Body):
    reason: ShortText = ""


class Rejection(Body):
    reason: Reason
