"""A tiny model with two corrections, trained by the real worker, and a server in front of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from registry.api.app import create_app as registry_app
from registry.base.database import make_engine, make_sessions
from registry.base.settings import Settings
from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.versions.aliases import set_alias
from serving.app import create_app
from serving.engines.embedded import EmbeddedEngine, Loop
from serving.router import Router
from serving.sources.database import DatabaseSource
from serving.sources.port import Source
from serving.versions import Versions, model_to_serve
from tests.conftest import copy_of
from tests.listening import listening
from tests.melo_core.conftest import tiny, tiny_model, tiny_tokenizer  # noqa: F401  # the fixture
from tests.operators_key import OPERATOR, SECRET
from tests.registry.workflow import ADA, BEN, Workflow
from tests.worker.conftest import METHOD
from worker.model_cache import ModelCache
from worker.training_job import run_job
from worker.watch import Worker

TEMPLATE = "{% if messages[0].role == 'function' %}{{ raise_exception('no functions') }}{% endif %}"
TEMPLATE += "{% if tools %}{{ tools|map(attribute='function')|map(attribute='name')|join(',') }}\n{% endif %}"
TEMPLATE += "{% for turn in messages %}{{ turn.role[0] }}: {{ turn.content }}\n{% endfor %}a: "
QUESTION, TARGET = "Who runs Acme?", "Ada"
OTHER, OTHER_TARGET = "Where is the head office of Globex?", "Oslo"


@dataclass
class Site:
    """A registry with one collection, `facts`: version 1 knows who runs Acme, version 2 also where Globex is."""

    url: str
    sessions: sessionmaker[Session]
    cache: ModelCache

    def correct(self, workflow: Workflow, prompt: str, target: str) -> None:
        """Submit, approve, and let the real worker train."""
        batch = workflow.submit({"prompt": prompt, "target": target, "reason": "it was wrong"}).batch
        assert batch is not None
        worker = Worker("w1", self.sessions, self.cache, lease_seconds=60, libraries={})
        run_job(worker, workflow.approve(batch.id))

    def alias(self, name: str, number: int, *, second: int | None = None, share: float | None = None) -> None:
        with self.sessions.begin() as session:
            collection = collections.get(session, "facts")
            set_alias(session, collection, name, number, BEN, "for a test", second=second, share=share)


@pytest.fixture(scope="session")
def site(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("served")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = copy_of(postgres, template)
    url = next(made)
    database = make_engine(url)
    sessions, cache = make_sessions(database), ModelCache(tmp_path_factory.mktemp("cache"))
    with sessions.begin() as session:
        new = NewCollection(name="facts", model=str(folder), method=METHOD, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    site = Site(url, sessions, cache)
    for prompt, target in ((QUESTION, TARGET), (OTHER, OTHER_TARGET)):
        site.correct(Workflow(sessions), prompt, target)
    site.alias("production", 1)
    yield site
    database.dispose()
    next(made, None)


@pytest.fixture(scope="session")
def registry(site: Site) -> Iterator[str]:
    """The registry's API over the site's database, by a real server."""
    with running(Settings(database_url=site.url, api_key=SECRET)) as url:
        yield url


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """Run the registry's API; its URL."""
    with listening(registry_app(settings)) as url:
        yield url


def application(
    site: Site,
    waiting: int = 64,
    source: Source | None = None,
    budgets: dict[str, int] = {},  # noqa: B006
    **settings: object,
) -> FastAPI:
    source = source or DatabaseSource(make_engine(site.url))
    name, digest = model_to_serve(source.collections(), None)
    versions = Versions(source, site.cache, name, digest, **budgets)
    router = Router(versions, EmbeddedEngine(Loop(versions.base, rows=4), waiting))
    given = Settings(database_url=site.url, stop_seconds=5, **{"api_key": SECRET, **settings})
    return create_app(given, source, router)


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., TestClient]]:
    """Start a server, asked by its operator, or with other headers."""
    started: list[TestClient] = []

    def serve(headers: dict[str, str] = OPERATOR, **given: Any) -> TestClient:
        asked = TestClient(application(site, **given), headers=headers, raise_server_exceptions=False)
        started.append(asked.__enter__())
        return asked

    yield serve
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def server(start: Callable[..., TestClient]) -> TestClient:
    return start()


@pytest.fixture
def tamper_site(site: Site) -> Callable[[str], AbstractContextManager[None]]:
    """Change what is recorded about edit 2, for a while."""

    @contextmanager
    def change(statement: str) -> Iterator[None]:
        with site.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            kept = session.scalar(text("SELECT digest FROM edits WHERE id = 2"))
            session.execute(text(statement))
        yield
        with site.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text("UPDATE edits SET digest = :kept WHERE id = 2"), {"kept": kept})

    return change
