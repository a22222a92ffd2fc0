"""A registry with eight corrections of SmolLM2, trained by the real worker, and vLLM in its own environment.

`make serve-vllm-test` installs vLLM and runs these tests; without it they are skipped.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.serving.beside_vllm import PYTHON, QUIET, is_installed
from melo_core.block import Block
from melo_core.edited_model import BASE, EditedModel
from melo_core.structure import structure_of
from registry.api.app import create_app
from registry.base.database import make_engine, make_sessions
from registry.base.settings import Settings
from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from serving.vllm_options import options as vllm_options
from tests.conftest import copy_of
from tests.operators_key import KEY, OPERATOR, SECRET
from tests.patience import until
from tests.registry.workflow import ADA, Workflow
from worker.loader import LoadedVersion, load_version
from worker.model_cache import ModelCache
from worker.training_job import run_job
from worker.watch import Worker

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"
DEMO = ROOT / "worker" / "demo" / "corrections.jsonl"
ELSEWHERE = [
    "What is the capital of Peru?", "Name three colours.", "Who wrote Hamlet?", "How many legs has a spider?",
    "What is seven times eight?", "Give me a word that rhymes with cat.", "Which planet is the largest?",
    "What do bees make?",
]  # fmt: skip
TOKENS = 24


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not is_installed():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make serve-vllm-test"))


@dataclass
class Question:
    """A question, and what `EditedModel` answers with the block that covers it (None: none does)."""

    text: str
    ids: list[int]
    block: str | None
    answer: list[int]


@dataclass
class Site:
    """A registry whose collection `facts` has eight edits in version 1."""

    url: str
    sessions: sessionmaker[Session]
    version: LoadedVersion
    questions: list[Question]  # of each edit its prompt and a rephrase, then as many that are about something else
    folder: Path  # the model as vLLM reads it
    modules: list[str]  # the layers that blocks change
    api_url: str = ""
    key: str = ""  # of a viewer


@pytest.fixture(scope="session")
def site(postgres: str, template: str) -> Iterator[Site]:
    made = copy_of(postgres, template)
    url = next(made)
    database = make_engine(url)
    sessions, cache = make_sessions(database), ModelCache(Settings().cache)
    with sessions.begin() as session:
        collection = collections.create(
            session, NewCollection(name="facts", model=MODEL, preflight=Preflight.NONE), ADA
        )
        collection_id = collection.id
    edits = [json.loads(line) for line in DEMO.read_text("utf-8").splitlines()[:8]]
    fields = ("prompt", "target", "rephrases")
    workflow = Workflow(sessions)
    batch = workflow.submit(*({name: edit[name] for name in fields} for edit in edits)).batch
    assert batch is not None
    run_job(Worker("w1", sessions, cache, lease_seconds=600, libraries={}), workflow.approve(batch.id))
    version = load_version(sessions, cache, collection_id, 1)
    folder = cache.folder_of(MODEL, version.content.collection.model_digest)
    modules = list(structure_of(version.model.base.model, version.model.settings).modules)
    asked = [text for edit in edits for text in (edit["prompt"], edit["rephrases"][0])]
    site = Site(url, sessions, version, questions(version, [*asked, *ELSEWHERE]), folder, modules)
    with served(create_app(Settings(database_url=url, api_key=SECRET))) as site.api_url:
        new = {"name": "vllm", "roles": [{"role": "viewer", "collection": "facts"}]}
        answer = httpx.post(f"{site.api_url}/v1/keys", json=new, headers=OPERATOR)
        site.key = answer.raise_for_status().json()["key"]
        yield site
    database.dispose()
    next(made, None)


def questions(version: LoadedVersion, texts: list[str]) -> list[Question]:
    content, base, settings = version.content, version.model.base, version.model.settings
    blocks = {block.id: Block.from_bytes(block.data or b"") for block in content.blocks.values()}
    blocks_alone = EditedModel(base, settings, None, blocks, {})  # whatever a block says, be it the target or not
    found = []
    for text in texts:
        route = version.model.route(text)
        (answer,) = blocks_alone.answer([text], [route if route.block else BASE], max_new_tokens=TOKENS)
        block = content.blocks[route.block].sha256 if route.block else None
        found.append(Question(text, base.prompt_ids(text), block, list(answer.token_ids)))
    return found


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application from a thread; yield its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, 0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """A program that serves HTTP on a port of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], env=os.environ | environment, stdout=out, stderr=out
            )
        try:
            until(self.answers, 0.5)
        except BaseException:
            self.end()
            raise

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-5000:]
        try:
            return httpx.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def vllm_server(site: Site, folder: Path, slots: int = 4) -> Server:
    """Start vLLM with the plugin, which fetches blocks from the registry; there are fewer slots than blocks."""
    found = vllm_options(site.version.model.base, MODEL, site.folder, [site.version.model.settings], "float32", slots)
    (folder / "config.yaml").write_text(json.dumps(found))
    given = {"MELO_API_URL": site.api_url, "MELO_API_KEY": site.key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    options = ["--host", "127.0.0.1", "--config", str(folder / "config.yaml")]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *options]
    return Server(command, QUIET | given, folder / "vllm.log")


def router(site: Site, folder: Path, *urls: str) -> Server:
    """Start `melo serve` over vLLM servers."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "serve"]
    for url in urls:
        command += ["--vllm", url]
    given = {"MELO_DATABASE_URL": site.url, "PYTHONPATH": str(ROOT), "MELO_API_KEY": KEY}
    return Server(command, given, folder / "router.log")
