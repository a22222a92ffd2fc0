"""Corrections that the real worker trains, and what is asked of their versions."""

from collections.abc import Iterator
from contextlib import contextmanager

from melo_core.base_model import BaseModel
from registry.batches import service as edits
from registry.jobs.schemas import EditReport
from registry.tables.jobs import Job
from registry.tables.versions import Version
from tests.registry.workflow import Workflow
from worker.fault_points import FaultPoint
from worker.loader import LoadedVersion, load_version
from worker.model_cache import ModelCache
from worker.training_job import run_job
from worker.watch import Worker

PAIRS = [("Who runs Acme?", "Ada"), ("Where is the head office of Globex?", "Oslo")]


def correct(workflow: Workflow, worker: Worker, *pairs: tuple[str, str], **fields: object) -> Version:
    """Submit, approve, and let the real worker train."""
    batch = workflow.submit(*({"prompt": p, "target": t} | fields for p, t in pairs)).batch
    assert batch is not None
    run_job(worker, workflow.approve(batch.id))
    with workflow.sessions() as session:
        job = session.query(Job).filter_by(batch_id=batch.id).one()
        assert job.state == "succeeded", job.error
        return session.query(Version).filter_by(batch_id=batch.id).one()


def load(worker: Worker, workflow: Workflow, number: int, model_cache: ModelCache | None = None) -> LoadedVersion:
    with workflow.open() as (_, collection):
        collection_id = collection.id
    return load_version(worker.sessions, model_cache or worker.model_cache, collection_id, number)


def ask(loaded: LoadedVersion, *prompts: str, tokens: int = 8) -> list[str]:
    return [answer.text for answer in loaded.model.ask(prompts, max_new_tokens=tokens)]


def reports(workflow: Workflow, version: Version) -> list[EditReport]:
    """What the API says about each edit of the version's batch."""
    with workflow.sessions() as session:
        return edits.view(session, edits.get(session, version.batch_id)).job.report


def correct_all(workflow: Workflow, worker: Worker, *edits: dict[str, object]) -> Version:
    """The same, with fields of each edit's own."""
    batch = workflow.submit(*edits).batch
    assert batch is not None
    run_job(worker, workflow.approve(batch.id))
    with workflow.sessions() as session:
        return session.query(Version).filter_by(batch_id=batch.id).one()


ACME, GLOBEX = ({"prompt": prompt, "target": target} for prompt, target in PAIRS)


def load_after(workflow: Workflow, worker: Worker, *pairs: tuple[str, str]) -> LoadedVersion:
    return load(worker, workflow, correct(workflow, worker, *pairs).number)


@contextmanager
def window_of(base: BaseModel, tokens: int) -> Iterator[None]:
    """A shorter window, for a while."""
    config = base.model.config
    config.max_position_embeddings, usual = tokens, config.max_position_embeddings
    try:
        yield
    finally:
        config.max_position_embeddings = usual


def model_of(workflow: Workflow) -> tuple[str, str]:
    with workflow.open() as (_, collection):
        return collection.model, collection.model_digest


def at(point: FaultPoint, act):
    """A worker's hook that acts the first time that it passes the point."""
    passed = []

    def hook(place: FaultPoint) -> None:
        if place is point and not passed:
            passed.append(place)
            act()

    return hook
