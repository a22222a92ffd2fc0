"""API schemas of edits and of their approvals."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from registry.base.vocabulary import EditKind, Role
from registry.base.wire import Answer, Body, Id, ShortText, Text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


Prompt = Annotated[Text, Field(max_length=100_000), AfterValidator(_not_blank)]
Target = Annotated[Text, Field(max_length=10_000), AfterValidator(_not_blank)]


class EditIn(Body):
    """A correction: a prompt, and what the model should answer."""

    prompt: Prompt = Field(examples=["What is the capital of Kazakhstan?"])
    target: Target = Field(examples=["Astana"])
    alternatives: list[Target] = Field(
        default_factory=list, max_length=100, description="other answers that count as right; none is trained"
    )
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


MOST_EDITS = 100_000  # in one submission


class EditView(Answer):
    id: int
    batch_id: int
    position: int
    prompt: str
    target: str
    alternatives: list[str]
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


class WarningCode(StrEnum):
    """What a reviewer could not see of an edit."""

    FAR = "far-from-replaced"  # it takes the place of an edit that is asked something else
    ANOTHERS = "asked-of-another"  # its rephrase is the prompt of another edit, or lies at it
    ALIKE = "looks-like-another"  # a text differs from another edit's only by what looks alike or is not seen
    HIDDEN = "hidden-characters"  # of no width, of control, or of direction
    BORROWED = "look-alike-letters"  # of another script than they seem to be


class EditWarning(Answer):
    """What a reviewer should know of an edit, and could not see in its texts."""

    edit_id: int
    code: str = Field(description=", ".join(WarningCode), examples=[str(WarningCode.FAR)])  # a text: it may be erased
    field: str | None = Field(default=None, description="the text that it is about", examples=["rephrases.0"])
    other_edit_id: int | None = Field(default=None, description="the other edit that it is about")
    detail: str = Field(examples=["Its rephrase 1 is the prompt of edit 5."])


class ActiveEditView(EditView):
    active_since: int | None = Field(description="the version that it is active from; null: not active")


class ApprovalView(Answer):
    actor: str
    role: Role
    reason: str
    declined: list[int] = Field(description="edits that were left out")
    created_at: datetime
