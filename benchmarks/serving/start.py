"""The start of a server over a version with many edits: how long until it answers, and the memory that it takes."""

import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import structlog
import uvicorn
from pydantic import SecretStr
from sqlalchemy.orm import Session

from benchmarks.record.databases import databases
from benchmarks.record.generate import generate
from benchmarks.record.synthetic import NAME, Synthetic
from benchmarks.serving.engine import random_block
from benchmarks.serving.load import API_KEY, PATIENCE_SECONDS, WITH_KEY, served
from cli.invocation import Invocation
from melo_core.settings import MethodSettings
from registry.api.app import create_app
from registry.audit.actor import Actor
from registry.base.database import make_engine, make_sessions
from registry.base.digests import sha256_hex
from registry.base.settings import Settings
from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.tables.collections import Calibration, Collection
from worker.model_cache import ModelCache

Advance = Callable[[str, int, int], None]

VERSIONS = 9
DIMENSIONS = 384
STEPS = 256  # to 1: float32 and a vector's text represent these exactly
ELSEWHERE = "What is the capital of Peru?"
INSIDE = "Who chairs organisation 1?"


def measure_start(call: Invocation, model: str, edits: int, advance: Advance) -> dict[str, Any]:
    """Return the figures of starts by way of the database and of the API, for a version with random keys."""
    folder = Path(tempfile.mkdtemp(prefix="melo-bench-start-"))
    found: dict[str, Any] = {"start_edits": edits}
    try:
        with databases(call.settings.database_url) as made:
            url = made.make("start")
            advance("writing versions", 0, 1)
            _write(call, url, model, edits)
            advance("writing versions", 1, 1)
            with _api(url) as api:
                for way, environment in (
                    ("database", {"MELO_DATABASE_URL": url}),
                    ("api", {"MELO_SERVE_REGISTRY": api}),
                ):
                    advance(f"start by the {way}", 0, 1)
                    found |= {f"{name}_by_{way}": value for name, value in _start(environment, folder, edits).items()}
                    advance(f"start by the {way}", 1, 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _write(call: Invocation, url: str, model: str, edits: int) -> None:
    """Write a collection whose blocks are a few bytes, but for one that can act."""
    cache = ModelCache(call.settings.cache, call.settings.dtype)
    engine = make_engine(url, 0)
    with make_sessions(engine)() as session:
        assert session is not None
    first: list[bytes] = []

    def collection_of(session: Session, name: str) -> Collection:
        new = NewCollection(name=NAME, model=name, preflight=Preflight.NONE)
        collection = collections.create(session, new, Actor("admin"))
        settings = MethodSettings.from_json(dict(collection.method))
        encoder, digest = cache.encoder(collection.encoder, None, None)
        whitening = cache.fitted_whitening(encoder, digest, settings.whiten_epsilon, lambda *_: None)
        collection.encoder_digest = digest
        session.add(Calibration(collection_id=collection.id, data=whitening, sha256=sha256_hex(whitening)))
        first.append(random_block(cache.base(collection.model, collection.model_digest), settings, 1).to_bytes())
        session.flush()
        return collection

    def synthetic(prompt: str, target: str) -> Synthetic:
        drawn = np.random.default_rng(int(sha256_hex(prompt.encode())[:16], 16)).standard_normal(DIMENSIONS)
        key = np.round(drawn / np.linalg.norm(drawn) * STEPS) / STEPS
        return Synthetic.of(prompt, target, key.tolist(), first[0] if prompt == INSIDE else None)

    try:
        generate(make_sessions(engine), model, VERSIONS, edits, lambda _: None, collection_of, synthetic)
    finally:
        engine.dispose()


def _start(environment: dict[str, str], folder: Path, edits: int) -> dict[str, float]:
    began = time.monotonic()
    own = {"MELO_HOME": str(folder), "MELO_DATABASE_URL": "", "MELO_API_KEY": API_KEY}
    with served(os.environ | own | environment, folder) as found:
        url, process = found
        ready = time.monotonic()
        _ask(url, f"{NAME}@latest", ELSEWHERE)
        first = time.monotonic()
        _ask(url, f"{NAME}@latest", INSIDE)
        inside, held = time.monotonic(), _megabytes(process)
        _ask(url, f"{NAME}@{VERSIONS - 1}", ELSEWHERE)  # the models are in memory: what it costs is the version's own
        again = time.monotonic()
        return {
            "start_seconds": ready - began,
            "first_answer_seconds": first - began,
            "first_corrected_seconds": inside - first,
            "next_version_seconds": again - inside,
            "megabytes_per_1000_edits": (_megabytes(process) - held) / (edits * (VERSIONS - 1) / VERSIONS) * 1000,
        }


def _ask(url: str, model: str, question: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 4, "temperature": 0}
    httpx.post(f"{url}/v1/chat/completions", json=body, headers=WITH_KEY, timeout=PATIENCE_SECONDS).raise_for_status()


def _megabytes(process: int) -> float:
    return float(psutil.Process(process).memory_info().rss) / 2**20


@contextmanager
def _api(url: str) -> Iterator[str]:
    """The registry's API over a database, in this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # no line a request
    app = create_app(Settings(database_url=url, api_key=SecretStr(API_KEY)))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        structlog.configure(**before)
