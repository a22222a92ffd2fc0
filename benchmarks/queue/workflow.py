"""Submitters and approvers of the bench, through the registry's own services."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from registry.audit.actor import Actor
from registry.base.vocabulary import JobState, Preflight
from registry.batches import deciding, submitting
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.relay import Message
from registry.tables.edits import Batch
from registry.tables.jobs import Job, OutboxMessage

SUBMITTER, APPROVER = Actor("bench-editor"), Actor("bench-approver")
WAITING = (JobState.QUEUED, JobState.RUNNING)


@dataclass
class Workflow:
    """The steps of a correction's workflow, each in a transaction of its own."""

    sessions: sessionmaker[Session]

    def create(self, name: str, model: str, method: dict[str, Any], preflight: Preflight = Preflight.NONE) -> None:
        with self.sessions.begin() as session:
            collections.create(
                session, NewCollection(name=name, model=model, method=method, preflight=preflight), SUBMITTER
            )

    def submit(self, collection: str, records: Sequence[dict[str, Any]], **options: Any) -> int:
        """Submit a batch and return its id."""
        with self.sessions.begin() as session:
            found = collections.get(session, collection)
            batch = submitting.submit(session, found, list(records), SUBMITTER, **options).batch
            assert batch is not None
            return batch.id

    def approve(self, batch_id: int) -> None:
        with self.sessions.begin() as session:
            deciding.approve(session, batch_id, APPROVER, "for the bench")

    def approved(self, collection: str, records: Sequence[dict[str, Any]], **options: Any) -> int:
        batch_id = self.submit(collection, records, **options)
        self.approve(batch_id)
        return batch_id

    def unfinished(self, batch_ids: Collection[int]) -> list[int]:
        """Return those of the batches that have a waiting or running job."""
        with self.sessions() as session:
            return sorted(
                session.scalars(
                    select(Job.batch_id).where(Job.batch_id.in_(batch_ids), Job.state.in_(WAITING)).distinct()
                )
            )

    def running(self) -> list[int]:
        """Return the batches that a worker is working on."""
        with self.sessions() as session:
            return list(session.scalars(select(Job.batch_id).where(Job.state == JobState.RUNNING).order_by(Job.id)))

    def states(self, batch_ids: Collection[int]) -> dict[int, str]:
        with self.sessions() as session:
            rows = session.execute(select(Batch.id, Batch.state).where(Batch.id.in_(batch_ids)))
            return {row.id: row.state for row in rows}

    def messages(self, limit: int) -> list[Message]:
        """Return the last messages sent for the newest jobs."""
        last = select(func.max(OutboxMessage.id)).group_by(OutboxMessage.job_id)
        query = select(OutboxMessage).where(OutboxMessage.id.in_(last)).order_by(OutboxMessage.job_id.desc())
        with self.sessions() as session:
            rows = session.scalars(query.limit(limit)).all()
        return [Message(row.topic, row.job_id, row.payload["queue"], row.payload["priority"]) for row in rows]
