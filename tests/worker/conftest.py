"""A collection over a tiny model on disk, and a worker to train it: everything real but the model's knowledge."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from tests.melo_core.conftest import tiny, tiny_model, tiny_tokenizer  # noqa: F401  # the fixture
from tests.registry.workflow import ADA, Workflow
from worker.model_cache import ModelCache
from worker.watch import Worker

METHOD = {"layers": 2, "rank": 4, "learning_rate": 0.03, "iterations": 300, "loss_target": 0.2}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    return ModelCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def worker(sessions: sessionmaker[Session], model_cache: ModelCache) -> Worker:
    return Worker(name="w1", sessions=sessions, model_cache=model_cache, lease_seconds=60, libraries={})


@pytest.fixture
def tiny_workflow(sessions: sessionmaker[Session], tiny_folder: Path) -> Workflow:
    with sessions.begin() as session:
        new = NewCollection(name="facts", model=str(tiny_folder), method=METHOD, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    return Workflow(sessions)
