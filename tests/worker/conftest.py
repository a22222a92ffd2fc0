"""A collection over a tiny model on disk, and a worker to train it: everything real but the model's knowledge."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from registry.base.vocabulary import Checks
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from tests.melo_core.conftest import tiny_model, tiny_tokenizer
from tests.registry.desk import ADA, Desk
from worker.shelf import Shelf
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
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def worker(sessions: sessionmaker[Session], shelf: Shelf) -> Worker:
    return Worker(name="w1", sessions=sessions, shelf=shelf, lease_seconds=60, libraries={})


@pytest.fixture
def tiny_desk(sessions: sessionmaker[Session], tiny_folder: Path) -> Desk:
    with sessions.begin() as session:
        new = NewCollection(name="facts", model=str(tiny_folder), method=METHOD, checks=Checks.NONE)
        collections.create(session, new, ADA)
    return Desk(sessions)
