"""The record's collection and API, for the program to be called with, and a registry in front of which it is called."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cli.files.reading import EditFile, ReadOptions, open_edits
from embedded import stack
from registry.audit.trust import signing_of
from registry.base.database import make_engine, make_sessions
from registry.base.settings import Settings
from tests.cli.program import Melo
from tests.registry.conftest import model_folder, served, served_app, workflow
from tests.registry.workflow import Workflow

__all__ = ["model_folder", "served", "served_app", "workflow"]

_names = count(1)


@pytest.fixture(scope="session")
def melo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Melo]:
    """A registry without a worker, as `melo up --detach` starts it."""
    program = Melo(tmp_path_factory.mktemp("cli") / "home")
    done = program.run("up", "--detach", "--no-worker", "--no-serve")
    assert done.returncode == 0, done.stderr
    yield program
    assert program.run("down").returncode == 0
    assert stack.find(program.home) is None


@pytest.fixture
def facts(melo: Melo, model_folder: str) -> str:
    """The name of a new collection, whose submitters may approve their own batches."""
    name = f"facts-{next(_names)}"
    done = melo("collection", "create", name, "--model", model_folder, "--self-approval")
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture
def worker(melo: Melo, facts: str) -> Iterator[Workflow]:
    """What a worker would do in the record, without training."""
    found = stack.find(melo.home)
    assert found is not None
    engine = make_engine(found.database_url or "")
    signing = signing_of(Settings(home=melo.home))
    yield Workflow(make_sessions(engine, signing=signing), facts)
    engine.dispose()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., EditFile]:
    """Read a file of this content."""

    def read(content: str | bytes, name: str = "edits.csv", **options: Any) -> EditFile:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return open_edits(file, ReadOptions(**options))

    return read
