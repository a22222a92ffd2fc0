"""What the API says about training jobs."""

from datetime import datetime
from typing import Any

from registry.vocabulary import JobState
from registry.wire import Answer


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
