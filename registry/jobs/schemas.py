"""What the API says about training jobs."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from registry.vocabulary import JobState
from registry.wire import Answer

# A model may say anything; PostgreSQL cannot store the character NUL.
Said = Annotated[str, BeforeValidator(lambda text: text.replace("\x00", "\ufffd"))]


class ConflictView(Answer):
    """Another edit, with another target, whose scope the edit meets."""

    edit_id: int
    prompt: str
    distance: float
    forgotten: bool = Field(default=False, description="the other edit lost a point, and covers less than before")


class ChangedAnswer(Answer):
    """A prompt that must be answered as before, and no longer is."""

    prompt: str
    before: Said
    after: Said
    by_edit: int | None = Field(description="the edit that answers it now; null: the base model does")


class EditReport(Answer):
    """How an edit went, and what it does to others: for whoever approves to read."""

    edit_id: int
    loss: float | None = Field(description="at which its training stopped; null: it diverged")
    iterations: int
    reached: bool = Field(description="its training reached the loss aimed at")
    reproduced: bool = Field(description="free generation gives its target")
    answer: Said | None = Field(default=None, description="what free generation gives in place of the target")
    conflicts: list[ConflictView] = Field(default=[])
    unchanged_checked: int = Field(default=0, description="how many prompts must be answered as before")
    unchanged_changed: list[ChangedAnswer] = Field(default=[])


class JobView(Answer):
    id: int
    batch_id: int
    state: JobState
    attempt: int
    worker: str | None
    lease_until: datetime | None
    device: str | None
    libraries: dict[str, Any] | None
    seed: int
    settings: dict[str, Any]
    progress: dict[str, Any] | None
    loss_curve: list[Any] | None
    timings: dict[str, Any] | None
    report: list[EditReport] | None
    peak_memory_bytes: int | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class WorkerView(Answer):
    worker: str
    device: str
    seen_at: datetime
    models: dict[str, Any]
    alive: bool
