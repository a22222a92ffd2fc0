"""The way of a correction through the record, with synthetic keys and blocks: nothing is trained."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from registry.audit.actor import Actor
from registry.audit.schemas import VerificationView
from registry.base.database import make_engine, make_sessions
from registry.base.digests import sha256_hex
from registry.base.vocabulary import PointRole, Preflight, QueueState
from registry.batches import cancelling, deciding, submitting
from registry.batches import service as edits
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs import service as queue
from registry.jobs.claiming import Claim, ClaimedEdit
from registry.jobs.collection_queue import set_queue
from registry.tables.collections import Collection
from registry.tables.versions import Version
from registry.verification import service as verification
from registry.versions import repository, service
from registry.versions.content import VersionContent
from registry.versions.training_result import ClusterState, NewBlock, NewPoint, TrainingResult
from tests.conftest import copy_of

ADA, BEN = Actor("ada"), Actor("ben")  # she submits, he decides
ENCODER_DIGEST = sha256_hex(b"encoder")


@dataclass
class Workflow:
    """The steps of a correction's way, each in a transaction of its own."""

    sessions: sessionmaker[Session]
    name: str = "facts"

    @classmethod
    def with_collection(cls, sessions: sessionmaker[Session], model: str) -> Self:
        with sessions.begin() as session:
            new = NewCollection(name="facts", model=model, method={"rank": 4, "batch": 1}, preflight=Preflight.NONE)
            collections.create(session, new, ADA)
        return cls(sessions)

    @contextmanager
    def open(self) -> Iterator[tuple[Session, Collection]]:
        with self.sessions.begin() as session:
            yield session, collections.get(session, self.name)

    def submit(self, *records: dict[str, object], actor: Actor = ADA, **options) -> submitting.Report:
        with self.open() as (session, collection):
            return submitting.submit(session, collection, list(records), actor, **options)

    def approve(self, batch_id: int, actor: Actor = BEN) -> int:
        """Returns the job's id."""
        with self.sessions.begin() as session:
            deciding.approve(session, batch_id, actor, "checked")
            return edits.view(session, edits.get(session, batch_id)).job.id

    def claim(self, job_id: int, worker: str = "w1", lease_seconds: float = 60) -> Claim | None:
        with self.sessions.begin() as session:
            return queue.claim(
                session,
                job_id,
                worker=worker,
                device="cpu",
                libraries={"torch": "none"},
                lease_seconds=lease_seconds,
            )

    def take(self, worker: str = "w1", **options) -> list[Claim] | None:
        """What is best for a worker that may load any model, has none in memory and trains one batch at a time."""
        usual = {"models": None, "loaded": (), "lease_seconds": 60}
        with self.sessions.begin() as session:
            return queue.claim_next(session, worker=worker, device="cpu", libraries={}, **{**usual, **options})

    def cancel(self, batch_id: int, actor: Actor = BEN) -> None:
        with self.sessions.begin() as session:
            cancelling.cancel(session, batch_id, actor, "no longer wanted")

    def set_queue(self, state: QueueState) -> None:
        with self.open() as (session, collection):
            set_queue(session, collection, state, BEN, "maintenance")

    def finish(self, claim: Claim, result: TrainingResult | None = None) -> Version:
        with self.open() as (session, collection):
            version = repository.latest(session, collection.id)
            base = version.number if version else 0
            content = repository.version_content(session, collection.id, base, block_bytes=False)
            return service.apply(
                session,
                queue.hold(session, claim),
                result or trained(claim, content),
                timings={"train": 0.5},
                loss_curve=[[0.1, 2.0], [0.5, 0.01]],
            )

    def correct(self, *pairs: tuple[str, str], **options) -> Version:
        """Submit, approve, train and apply prompts and targets."""
        records = [{"prompt": prompt, "target": target} for prompt, target in pairs]
        batch = self.submit(*records, **options).batch
        assert batch is not None
        claim = self.claim(self.approve(batch.id))
        assert claim is not None
        return self.finish(claim)

    def retire(self, *edit_ids: int) -> Version:
        with self.open() as (session, collection):
            return service.retire(session, collection, edit_ids, BEN, "no longer true")

    def revert(self, number: int) -> Version:
        with self.open() as (session, collection):
            return service.revert(session, collection, number, BEN, "it was wrong")

    def rollback(self, to: int) -> Version:
        with self.open() as (session, collection):
            return service.rollback(session, collection, to, BEN, "worked better")

    def content(self, number: int) -> VersionContent:
        with self.open() as (session, collection):
            return repository.version_content(session, collection.id, number)

    def active(self) -> dict[str, int]:
        """The active prompts with their edits' ids."""
        with self.open() as (session, collection):
            found = edits.edits_of(session, collection, active=True, after=0, limit=1000)
            return {edit.prompt: edit.id for edit in found}

    def newest(self) -> int:
        """The newest version's number."""
        with self.open() as (session, collection):
            return repository.latest(session, collection.id).number

    def lock_is_awaited(self) -> bool:
        """Whether somebody waits for a lock in this database."""
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with self.sessions() as session:
            return session.scalar(text(f"SELECT EXISTS ({waiting})"))

    def verify(self) -> VerificationView:
        with self.sessions.begin() as session:
            return verification.verify(session)


def template_of(
    postgres: str, template: str, model: str, fill: Callable[[Workflow], object], **info: object
) -> Iterator[str]:
    """The name of a database in which `fill` was done once, to be copied for each test of a module.

    info: what the sessions that fill it carry, such as `signing`.
    """
    made = copy_of(postgres, template)
    engine = make_engine(next(made))
    fill(Workflow.with_collection(make_sessions(engine, **info), model))
    engine.dispose()
    yield engine.url.database or ""
    next(made, None)


def key_of(prompt: str) -> list[float]:
    """A synthetic key of 8 dimensions, other for every prompt."""
    digest = bytes.fromhex(sha256_hex(prompt.encode()))
    return [byte / 255 - 0.5 for byte in digest[:8]]


def token_ids(target: str) -> list[int]:
    return list(target.encode())


def trained(claim: Claim, base: VersionContent) -> TrainingResult:
    """What a worker would hand in: a block, a point and a cluster of its own for each edit."""

    def block(edit: ClaimedEdit) -> NewBlock:
        return NewBlock(
            number=-edit.id,
            edit_ids=[edit.id],
            data=f"weights for {edit.digest}".encode() * 50,
            shapes={"model.layers.29.mlp.down_proj": [4, 1536, 576]},
            rank=4,
            scale=1.0,
            loss=0.01,
            iterations=12,
        )

    def point(edit: ClaimedEdit) -> NewPoint:
        return NewPoint(-edit.id, -edit.id, edit.id, PointRole.PROMPT, key_of(edit.prompt))

    replaced = {edit.replaces for edit in claim.edits}
    gone = [each.cluster_no for each in base.clusters if base.points[each.members[0]].edit_id in replaced]
    new = [ClusterState(None, key_of(edit.prompt), 0.8, token_ids(edit.target), [-edit.id]) for edit in claim.edits]
    first = base.number == 0 and base.collection.calibration is None
    return TrainingResult(
        base_version=base.number,
        blocks=[block(edit) for edit in claim.edits],
        points=[point(edit) for edit in claim.edits],
        changed=new,
        removed=gone,
        calibration=b"mean and covariance" if first else None,
        encoder_digest=ENCODER_DIGEST,
    )


def merged(result: TrainingResult, points: Sequence[int]) -> TrainingResult:
    """The result with the clusters of the points as one, as if their keys lay close."""
    alone = [cluster for cluster in result.changed if cluster.members[0] not in points]
    together = next(cluster for cluster in result.changed if cluster.members[0] == points[0])
    return replace(result, changed=[*alone, replace(together, members=list(points))])


def calibration(d: int = 384, dtype: str = "F32", **more: list[int]) -> bytes:
    """The form of a calibration of d dimensions: zeros, as safetensors."""
    header, end = {}, 0
    for name, shape in ({"mean": [d], "matrix": [d, d]} | more).items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)
