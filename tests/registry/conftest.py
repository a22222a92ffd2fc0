"""A collection over a model of a few bytes, and the API in front of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from registry.app import create_app
from registry.settings import Settings
from tests.registry.desk import Desk, template_of

WINDOW = 256


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the registry reads of a transformers model: its files, its window and its tokenizer."""
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": WINDOW}))
    (folder / "model.safetensors").write_bytes(b"weights")
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture
def desk(sessions: sessionmaker[Session], model_folder: str) -> Desk:
    """A collection `facts`, submitted to by ada and decided on by ben."""
    return Desk.with_collection(sessions, model_folder)


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, postgres: str, template: str, model_folder: str) -> Iterator[str]:
    """The name of a database in which the module's `fill` was done, to be copied for each of its tests."""
    yield from template_of(postgres, template, model_folder, request.module.fill)


@pytest.fixture
def used(sessions: sessionmaker[Session]) -> Desk:
    """The collection of a database that is in use already."""
    return Desk(sessions)


@pytest.fixture
def tamper(engine: Engine) -> Callable[..., None]:
    """Change stored rows as somebody with all rights on the server could: triggers and constraints out of the way."""

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                connection.execute(text(statement))

    return run


@pytest.fixture
def api(database_url: str) -> Iterator[TestClient]:
    """The API without a key, asked from this machine."""
    yield from _client(Settings(database_url=database_url, api_key=None))


@pytest.fixture
def api_with_key(database_url: str) -> Iterator[TestClient]:
    yield from _client(Settings(database_url=database_url, api_key="s3cret"))


def _client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        yield client
