"""A claim: the right to finish a job, and everything that a worker needs to do it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from registry.audit.actor import Actor
from registry.base.vocabulary import EditKind, JobKind, Preflight, Priority
from registry.tables.edits import Edit


@dataclass(frozen=True)
class ClaimedEdit:
    """An edit to train, as the worker needs it."""

    id: int
    position: int
    prompt: str
    target: str
    rephrases: tuple[str, ...]
    unchanged: tuple[str, ...]
    kind: EditKind
    replaces: int | None
    digest: str

    @classmethod
    def of(cls, edit: Edit) -> "ClaimedEdit":
        return cls(
            id=edit.id,
            position=edit.position,
            prompt=edit.prompt,
            target=edit.target,
            rephrases=tuple(edit.rephrases),
            unchanged=tuple(edit.unchanged),
            kind=EditKind(edit.kind),
            replaces=edit.replaces,
            digest=edit.digest,
        )


@dataclass(frozen=True)
class Claim:
    """The right to finish a job, and everything to train it with."""

    job_id: int
    kind: JobKind
    preflight: Preflight  # what a preflight has to do, by the policy
    token: UUID
    attempt: int
    worker: str
    lease_seconds: float
    batch_id: int
    collection_id: int
    collection: str
    model: str
    model_digest: str
    window: int
    encoder: str
    encoder_digest: str | None  # None: no worker has fixed the encoder yet
    method: dict[str, Any]  # of the collection as a whole
    settings: dict[str, Any]  # the method's settings with the batch's changes
    seed: int
    priority: Priority
    deadline: datetime | None  # a training that is not applied by then is never applied
    queued_at: datetime
    edits: tuple[ClaimedEdit, ...]

    @property
    def actor(self) -> Actor:
        return Actor(f"worker/{self.worker}")
