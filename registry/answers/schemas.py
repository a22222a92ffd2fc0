"""API schemas of logged answers."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from registry.base.vocabulary import EditKind
from registry.base.wire import Answer, Body, Id, Reason, Text, VersionNumber
from registry.edits.schemas import ApprovalView, EditView

MOST_SENT = 200  # answers in one request
MOST_CHARACTERS = 8_000  # of a question, and of an answer
RESPONSE_PATTERN = r"^[A-Za-z0-9_-]{1,100}$"
ResponseId = Annotated[str, Field(pattern=RESPONSE_PATTERN, examples=["chatcmpl-5f0c6a1e6c3d4d7a9a430d9f6a2f0c11"])]
LoggedText = Annotated[Text, Field(max_length=MOST_CHARACTERS)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
SaidTo = Literal["query", "prompt", "base"]
Person = Annotated[Text, Field(min_length=2, max_length=200, examples=["Jo Doe"])]


class Considered(Answer):
    """An edit that was considered for a question, with what decided. It holds no text, neither of the question's."""

    edit: int
    distance: float
    score: float | None = Field(description="probability that the question asks something else; null: not read")
    rule: str | None = Field(description="the word rule that decided against it", examples=["number"])
    guard: bool = Field(description="whether one of its guards was nearer")
    covers: bool


class ConsideredEdit(Considered):
    prompt: str = Field(description="of the edit; empty: it was erased")
    target: str


class AnswerView(Answer):
    """A logged answer."""

    response_id: ResponseId
    choice: int = Field(ge=0, description="which of the response's choices")
    collection: str
    model: str = Field(description="as it was asked for", examples=["facts@production"])
    version: int = Field(description="0: the base model")
    digest: str = Field(description="of that version's content")
    asked_at: datetime
    asked_by: str = Field(description="empty: it was erased", examples=["app"])
    kind: EditKind
    edit_id: int | None = Field(description="the edit that answered; null: the base model did")
    said_to: str | None = Field(
        description="query: the edit's block gave its target to the question; prompt: only to its own prompt; base: to "
        "neither, so the base model answered; null: no edit covered the question",
        examples=["query"],
    )
    canary: bool = Field(description="whether the alias's canary answered")
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: int | None = Field(description="from the request to its first text")
    question: str | None = Field(description="null: the policy keeps no text", examples=["Who leads Atlantis?"])
    answer: str | None = Field(examples=["Queen Mara"])
    erased_at: datetime | None = Field(description="since then its text is gone")


class ActingEdit(EditView):
    """The edit that answered, who submitted it, and who approved it."""

    submitted_by: str
    approvals: list[ApprovalView]


class ExplainedAnswer(AnswerView):
    """A logged answer with the edit that gave it, or the reason why none did."""

    why: str = Field(description="in words", examples=["Edit 12 covers the question, and its block gave its target."])
    remedy: str | None = Field(
        description="what to do where the nearest edit should have answered",
        examples=["Train it again: `melo edit retrain 12 --training '{\"iterations\": 200}' --reason …`."],
    )
    edit: ActingEdit | None
    considered: list[ConsideredEdit] = Field(description="best first")


class ExplainedResponse(Answer):
    response_id: ResponseId
    answers: list[ExplainedAnswer] = Field(description="one for each choice")


class EditUsage(Answer):
    """How often an edit answered, as far as the log tells."""

    edit_id: int
    prompt: str
    target: str
    active_since: int | None = Field(description="the version that it is active from; null: not active")
    answers: int = Field(ge=0, description="logged answers that it gave")
    first_at: datetime | None = Field(description="when it gave the first of them")
    last_at: datetime | None
    thumbs_up: int = Field(ge=0)
    thumbs_down: int = Field(ge=0)


class UsageView(Answer):
    """How many answers a collection's log holds."""

    log_share: float = Field(description="share of responses that is logged now; 0: none", examples=[0.1])
    log_days: int
    since: datetime | None = Field(description="when the oldest of them was given; null: the log is empty")
    answers: int
    by_edits: int = Field(description="of these, given by an edit")
    edits: int = Field(description="different edits that gave them")


class TextErasure(Body):
    person: Person = Field(description="texts that mention this are erased, and the name of whoever asked under it")
    reason: Reason = Field(description="it is kept for good: name nobody in it", examples=["request 2026-17"])
    dry_run: bool = Field(default=False, description="say what would go; change nothing")


class TextErasureView(Answer):
    """What was erased of the logs or, in a dry run, would be."""

    dry_run: bool
    answers: int
    feedback: int


class NewAnswer(Body):
    """An answer that a server gave."""

    response_id: ResponseId
    choice: Count
    collection_id: Id
    model: Annotated[Text, Field(min_length=1, max_length=200, examples=["facts@production"])]
    version: VersionNumber
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]
    asked_at: AwareDatetime
    asked_by: Annotated[Text, Field(max_length=200, examples=["app"])]
    kind: EditKind
    edit_id: Id | None
    said_to: SaidTo | None = Field(examples=["query"])
    canary: bool = False
    considered: list[Considered] = Field(max_length=64)
    prompt_tokens: Count
    completion_tokens: Count
    first_token_ms: Count | None = None
    question: LoggedText | None = Field(default=None, examples=["Who leads Atlantis?"])
    answer: LoggedText | None = Field(default=None, examples=["Queen Mara"])

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.edit_id is not None) != (self.said_to in ("query", "prompt")):
            raise ValueError("edit_id belongs to said_to query or prompt")
        if (self.question is None) != (self.answer is None):
            raise ValueError("question and answer belong together")
        return self


class NewAnswers(Body):
    """What a server hands over to be logged."""

    answers: list[NewAnswer] = Field(max_length=MOST_SENT)


class LogPolicyView(Answer):
    """What a collection keeps of its answers."""

    share: float = Field(description="of responses")
    text: bool = Field(description="whether with question and answer")


class KeptAnswers(Answer):
    policies: dict[int, LogPolicyView] = Field(description="by id, of those of the caller's collections that log")
    kept: int = Field(description="how many of these answers the log keeps")
