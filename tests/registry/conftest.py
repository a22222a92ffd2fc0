"""A collection over a model of a few bytes, and the API in front of it."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from registry.api.app import create_app
from registry.base import database
from registry.base.settings import Settings
from registry.relay import Message, Relay
from tests.operators_key import OPERATOR, SECRET
from tests.patience import until
from tests.registry.receiver import receiving
from tests.registry.workflow import Workflow, template_of

WINDOW = 256
ELSEWHERE = ("10.0.0.7", 50000)

NEXT_REVISION = """
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade():
    op.execute("ALTER TABLE batches ADD COLUMN colour text NOT NULL DEFAULT 'red'")


def downgrade():
    op.execute("ALTER TABLE batches DROP COLUMN colour")
"""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the registry reads of a transformers model: its files, its window and its tokenizer."""
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": WINDOW}))
    (folder / "model.safetensors").write_bytes(b"weights")
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture
def workflow(sessions: sessionmaker[Session], model_folder: str) -> Workflow:
    """A collection `facts`, submitted to by ada and decided on by ben."""
    return Workflow.with_collection(sessions, model_folder)


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, postgres: str, template: str, model_folder: str) -> Iterator[str]:
    """The name of a database in which the module's `fill` was done, to be copied for each of its tests."""
    yield from template_of(postgres, template, model_folder, request.module.fill)


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, this program has one revision of the schema more."""
    folder = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "0002_colour.py").write_text(NEXT_REVISION)
    return lambda: monkeypatch.setattr(database, "MIGRATIONS", folder)


@pytest.fixture
def used(sessions: sessionmaker[Session]) -> Workflow:
    """The collection of a database that is in use already."""
    return Workflow(sessions)


@pytest.fixture
def api(database_url: str) -> Iterator[TestClient]:
    """The API, asked by its operator."""
    yield from _client(Settings(database_url=database_url, api_key=SECRET))


@pytest.fixture
def served_app(database_url: str) -> Iterator[tuple[FastAPI, str]]:
    """The API behind a real server, and its URL."""
    app = create_app(Settings(database_url=database_url, api_key=SECRET))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, 0.02)
    yield app, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def served(served_app: tuple[FastAPI, str]) -> str:
    return served_app[1]


@pytest.fixture
def open_api(database_url: str) -> Iterator[Callable[..., TestClient]]:
    """Start an API with other settings, asked without a key."""
    with ExitStack() as running:

        def start(client: tuple[str, int] = ELSEWHERE, **settings: object) -> TestClient:
            app = create_app(Settings(database_url=database_url, **{"api_key": SECRET, **settings}))
            return running.enter_context(TestClient(app, client=client, raise_server_exceptions=False))

        yield start


@pytest.fixture
def remote(open_api: Callable[..., TestClient]) -> TestClient:
    """The API, asked without a key."""
    return open_api()


@pytest.fixture
def sent() -> list[Message]:
    return []


@pytest.fixture
def relay(sessions: sessionmaker[Session], sent: list[Message]) -> Relay:
    """A relay whose messages stand in `sent`."""
    return Relay(sessions, sent.append, 120, 0.01, threading.Event())


receiver = pytest.fixture(receiving, name="receiver")


@pytest.fixture
def inside(database_url: str) -> Iterator[TestClient]:
    """An API that may send into its own network, where the receiver is."""
    yield from _client(Settings(database_url=database_url, api_key=SECRET, webhook_allow_private=True))


def _client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings)
    with TestClient(app, headers=OPERATOR) as client:
        yield client
