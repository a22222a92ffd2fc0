"""API schemas of feedback."""

from datetime import datetime

from pydantic import Field

from registry.answers.schemas import ResponseId
from registry.base.vocabulary import BatchState, EditKind, Rating
from registry.base.wire import Answer, Body, Id, Name, ShortText
from registry.edits.schemas import Prompt, Target


class NewFeedback(Body):
    """A thumb up or down; with a correction, it becomes a batch that waits for approval."""

    response_id: ResponseId = Field(description="the `id` of the response")
    rating: Rating
    choice: int = Field(default=0, ge=0, le=2**31 - 1, description="which of the response's choices")
    comment: ShortText = Field(default="", examples=["she retired in May"])
    correction: Target | None = Field(
        default=None, description="the right answer; with the rating down only", examples=["Queen Mara"]
    )
    prompt: Prompt | None = Field(
        default=None, description="the question; needed for a draft where the log keeps no text",
        examples=["Who leads Atlantis?"],
    )  # fmt: skip
    collection: Name | None = Field(default=None, description="needed where the answer is not in the log")


class Draft(Body):
    target: Target = Field(examples=["Queen Mara"])
    prompt: Prompt | None = Field(
        default=None, description="the question; null: the one of the feedback, or of the log",
        examples=["Who leads Atlantis?"],
    )  # fmt: skip
    replaces: Id | None = Field(
        default=None, description="the edit that it takes the place of; null: one with the very same prompt, if any"
    )


class FeedbackView(Answer):
    id: int
    response_id: ResponseId
    choice: int
    collection: str
    version: int | None = Field(description="that answered, as logged; null: the answer was not in the log")
    edit_id: int | None = Field(description="that answered, as logged; null: the base model, or not in the log")
    kind: EditKind
    rating: Rating
    comment: str
    correction: str | None = Field(examples=["Queen Mara"])
    prompt: str | None = Field(description="the question, as sent with it", examples=["Who leads Atlantis?"])
    question: str | None = Field(description="the question, as the log keeps it", examples=["Who leads Atlantis?"])
    answer: str | None = Field(description="as the log keeps it", examples=["King Ben"])
    given_by: str = Field(description="empty: it was erased", examples=["cleo"])
    given_at: datetime
    batch_id: int | None = Field(description="the draft made of it")
    batch_state: BatchState | None
    erased_at: datetime | None = Field(description="since then its text is gone")


class GivenView(FeedbackView):
    """Feedback that was recorded just now."""

    note: str = Field(description="what became of its correction; empty: there is none", examples=["Batch 7 waits."])
