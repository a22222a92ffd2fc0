"""What a job trained, for training it again: its edits in order, and the resulting blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.base.errors import NotFound, WrongState, ids_in_words
from registry.base.vocabulary import JobKind, JobState
from registry.collections import repository as collections
from registry.edits import repository as edits
from registry.jobs import repository
from registry.jobs.claiming import ClaimedEdit
from registry.tables.jobs import Job
from registry.tables.versions import Block, BlockEdit


@dataclass(frozen=True)
class TrainedBlock:
    """A block as it was stored."""

    id: int
    edits: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Replay:
    """Everything that determines the bytes of a job's blocks, and the blocks."""

    job_id: int
    model: str
    model_digest: str
    model_files: Mapping[str, str]
    settings: Mapping[str, Any]
    device: str | None
    libraries: Mapping[str, Any]
    trained_together: tuple[ClaimedEdit, ...]  # in order, including those of other jobs
    blocks: tuple[TrainedBlock, ...]


def replay_of(session: Session, job_id: int) -> Replay:
    """Return what is needed to train a job again. Raises NotFound, or WrongState if there is nothing to train."""
    job = repository.by_id(session, job_id)
    if job is None:
        raise NotFound(f"There is no job {job_id}.", "`melo job list` shows those that exist.")
    blocks = _blocks(session, job.id)
    if job.trained_together is not None:  # a block kept by an edit with more guards was trained by another job
        blocks = [block for block in blocks if set(job.trained_together).issuperset(block.edits)]
    if not blocks:
        raise _trained_nothing(session, job)
    # A preflight keeps no such list: it trains the edits of its own batch, in the order of the submission.
    trained = job.trained_together or [edit_id for block in blocks for edit_id in block.edits]
    found = {edit.id: edit for edit in edits.by_ids(session, trained)}
    if job.trained_together is None:
        trained.sort(key=lambda edit_id: found[edit_id].position)
    if erased := [edit_id for edit_id in trained if found[edit_id].erased_at is not None]:
        raise WrongState(
            f"Job {job_id} cannot be trained again: the content of edit {ids_in_words(erased)} was erased.",
            "Choose a job whose edits all have their content.",
        )
    collection = collections.by_id(session, job.collection_id)
    return Replay(
        job_id=job.id,
        model=collection.model,
        model_digest=collection.model_digest,
        model_files=collection.model_files,
        settings=job.settings,
        device=job.device,
        libraries=job.libraries or {},
        trained_together=tuple(ClaimedEdit.of(found[edit_id]) for edit_id in trained),
        blocks=tuple(blocks),
    )


def _blocks(session: Session, job_id: int) -> list[TrainedBlock]:
    trained_for = func.array_agg(BlockEdit.edit_id)
    query = (
        select(Block.id, trained_for, Block.sha256)
        .join(BlockEdit, BlockEdit.block_id == Block.id)
        .where(Block.job_id == job_id)
        .group_by(Block.id)
        .order_by(Block.id)
    )
    return [TrainedBlock(block_id, tuple(sorted(ids)), sha256) for block_id, ids, sha256 in session.execute(query)]


def _trained_nothing(session: Session, job: Job) -> WrongState:
    """Return the error that says why a job has no block."""
    if job.state != JobState.SUCCEEDED:
        return WrongState(
            f"Job {job.id} is {job.state}: it stored no block.", "Choose one that succeeded: `melo job list`."
        )
    if job.kind == JobKind.PREFLIGHT:
        return WrongState(
            f"Job {job.id} is a preflight that trained nothing.",
            "Choose a training, or the preflight of a collection whose policy has `preflight=train`: `melo job list`.",
        )
    if _blocks(session, job.id):
        return WrongState(
            f"Job {job.id} trained nothing: it kept the blocks of the edits that it gave more guards.",
            "Replay the job that trained them: `melo job list` shows all.",
        )
    preflight = repository.latest_of_batch(session, job.batch_id, JobKind.PREFLIGHT)
    return WrongState(
        f"Job {job.id} trained nothing: it took over the blocks that the batch's preflight had trained.",
        f"Replay that one: melo job replay {preflight.id}" if preflight else "Choose another one: `melo job list`.",
    )
