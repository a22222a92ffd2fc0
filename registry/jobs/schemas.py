"""What the API says about jobs: preflights and trainings."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from registry.base.vocabulary import JobKind, JobState, Priority, QueueState
from registry.base.wire import Answer
from registry.edits.schemas import EditWarning

# A model may answer anything, but PostgreSQL cannot store the character NUL.
Said = Annotated[str, BeforeValidator(lambda text: text.replace("\x00", "\ufffd"))]


class Progress(Answer):
    """A worker's current step in a job, and how far it is."""

    stage: str = Field(default="", description="load, train, scope, index, evaluate, finish, …")
    done: int | None = Field(
        default=None, description="of what the stage counts: blocks, keys, prompts, a converted file's tensors"
    )
    total: int | None = None
    loss: float | None = Field(default=None, description="the mean of what is trained, in nats a token")
    seconds_left: float | None = Field(default=None, description="of the training, at its present speed")
    notes: list[str] = Field(default=[], description="what whoever looks at the batch should know, the last ones")


class ConflictView(Answer):
    """Another edit, with another target, whose scope overlaps the edit's."""

    edit_id: int
    prompt: str
    distance: float
    forgotten: bool = Field(default=False, description="the other edit lost a point, and covers less than before")


class ChangedAnswer(Answer):
    """A prompt whose answer must not change but did."""

    prompt: str
    before: Said
    after: Said
    by_edit: int | None = Field(description="the edit that answers it now; null: the base model does")


class NotReached(Answer):
    """A prompt or rephrase of an edit that is not answered with its target when the edit is in use."""

    text: str
    by_edit: int | None = Field(description="the edit that answers it; null: the base model does")
    why: str
    answer: Said | None = Field(default=None, description="what is answered, where the edit's own block answers")


class EditReport(Answer):
    """The outcome of an edit and its effect on others, for approvers."""

    edit_id: int
    loss: float | None = Field(description="at which its training stopped; null: it diverged")
    iterations: int
    reached: bool = Field(description="its training reached the loss aimed at")
    reproduced: bool = Field(description="free generation gives its target, or an alternative")
    answer: Said | None = Field(default=None, description="what free generation gives in place of the target")
    conflicts: list[ConflictView] = Field(default=[])
    not_reached: list[NotReached] = Field(
        default=[], description="its prompt and rephrases that do not arrive, asked as they are used"
    )
    unchanged_asked: int = Field(default=0, description="how many prompts must be answered as before")
    unchanged_changed: list[ChangedAnswer] = Field(default=[])


class NearEdit(Answer):
    """Another edit near one of the batch: it is active in the newest version, or in the same batch."""

    edit_id: int
    prompt: str
    target: str
    distance: float = Field(description="between the nearest two of their keys")
    inside: bool = Field(description="within the radius: one would answer what is asked of the other")
    same_target: bool
    in_batch: bool = Field(default=False, description="it is of the same batch")
    replaced: bool = Field(default=False, description="the edit says that it takes this one's place")

    @property
    def is_duplicate(self) -> bool:
        return self.inside and self.same_target and not self.replaced

    @property
    def is_contradiction(self) -> bool:
        return self.inside and not self.same_target and not self.replaced


class NearMiss(Answer):
    """A question other than an edit's prompt, asked of the version that would have the batch's edits."""

    kind: str = Field(
        description="how it differs from the prompt: attribute, subject, number, opposite, negated, next, task, asked"
    )
    text: Said
    by_edit: int | None = Field(description="the edit that would answer it; null: the base model")
    score: float | None = Field(
        default=None, description="the probability that it asks something else than the nearest edit's prompt"
    )
    answer: Said | None = Field(
        default=None,
        description="what would be answered, where an edit covers it; null: no block is trained yet, there are too "
        "many to ask, or the base model answers",
    )
    subject_of: int | None = Field(default=None, description="the other edit whose subject it asks about")


class EditPreflight(Answer):
    """What a preflight found about an edit, for whoever approves to read."""

    edit_id: int
    answer_now: Said = Field(description="what the newest version answers to its prompt")
    answered_by: int | None = Field(default=None, description="the edit that gives that answer; null: the base model")
    near: list[NearEdit] = Field(default=[], description="the nearest edits, nearest first")
    replaced_distance: float | None = Field(
        default=None, description="between its prompt and that of the edit whose place it takes; null: there is none"
    )
    warnings: list[EditWarning] = Field(default=[], description="what a reviewer could not see in its texts")
    remedies: list[str] = Field(default=[], description="what can be done about near duplicates and contradictions")
    trained: EditReport | None = Field(
        default=None,
        description="how its training went, where the preflight trains: answer null means it is the target",
    )
    near_misses: list[NearMiss] = Field(default=[], description="what people could ask beside it, and who answers")
    left_alone: float | None = Field(
        default=None,
        description="share of its near misses that no edit of the batch would answer; null: none was made",
    )


class _JobFacts(Answer):
    id: int
    batch_id: int
    kind: JobKind
    state: JobState
    attempt: int
    worker: str | None
    lease_until: datetime | None
    device: str | None
    libraries: dict[str, Any] | None
    seed: int = Field(description="the settings' own; with an edit's content, it starts its block")
    settings: dict[str, Any]
    trained_together: list[int] | None = Field(
        description="the edits trained in one go, in their order, also of other jobs"
    )
    not_before: datetime | None = Field(description="after a failure that may pass, it waits until then")
    progress: Progress | None
    loss_curve: list[Any] | None
    timings: dict[str, Any] | None
    peak_memory_bytes: int | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobView(_JobFacts):
    """The training of an approved batch."""

    report: list[EditReport] | None


class PreflightView(_JobFacts):
    """What a worker did with a batch before the decision. One that failed, or was cancelled, hinders nobody."""

    report: list[EditPreflight] | None = Field(description="what it found about each edit; null: it is not done")


class JobSummary(Answer):
    """A job in a list."""

    id: int
    collection: str
    batch_id: int
    edit_count: int = Field(description="of its batch; a training's without those that were left out")
    kind: JobKind
    state: JobState
    priority: Priority
    deadline: datetime | None
    attempt: int
    worker: str | None
    device: str | None
    not_before: datetime | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobRecord(_JobFacts):
    """Everything recorded about a job except its report on each edit, which is part of the batch."""

    collection: str
    priority: Priority
    deadline: datetime | None
    waits_for: str = Field(description="what it waits for, where it waits")


class QueueEntry(JobSummary):
    """A job that runs or waits."""

    progress: Progress | None
    waits_for: str = Field(description="what it waits for, where it waits")


class QueueView(Answer):
    """What is being worked on in a collection, and what is waiting."""

    collection: str
    state: QueueState
    running: list[QueueEntry]
    waiting: list[QueueEntry] = Field(description="the first ones, in the order in which they are begun")
    waiting_count: int = Field(description="how many wait in all")


class WorkerView(Answer):
    worker: str
    device: str
    seen_at: datetime
    models: dict[str, Any]
    alive: bool
