"""The Celery application: one task, woken by a message that carries a job's id. The row is the job."""

import os
import platform
import socket
import threading
from importlib.metadata import version

import redis
import structlog
from celery import Celery
from celery.signals import worker_shutting_down
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from registry.database import make_engine, make_sessions, schema_state
from registry.errors import InvalidRequest
from registry.jobs import service as jobs
from registry.settings import Settings
from worker.shelf import Shelf
from worker.training_job import run_job
from worker.watch import Worker

log = structlog.get_logger()

SEEN_EVERY_SECONDS = 3.0
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")


def make_app(settings: Settings) -> Celery:
    """Messages are acknowledged after the work, one at a time; losing or repeating one does no harm."""
    app = Celery("melo", broker=settings.redis_url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    return app


def serve(settings: Settings) -> None:
    """Work until told to stop. Raises SchemaMismatch, or InvalidRequest where the broker would lose messages."""
    engine = make_engine(settings.database_url, settings.statement_timeout_seconds)
    schema_state(engine).require_current()
    _require_noeviction(settings.redis_url)
    sessions = make_sessions(engine)
    shelf = Shelf(settings.cache, settings.dtype)
    worker = Worker(
        name=f"{socket.gethostname()}/{os.getpid()}",
        sessions=sessions,
        shelf=shelf,
        lease_seconds=settings.lease_seconds,
        libraries={name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    )
    app = make_app(settings)

    worker_shutting_down.connect(lambda **_: worker.stopping.set(), weak=False)

    @app.task(name=jobs.TRAIN)  # type: ignore[untyped-decorator]
    def train(job_id: int) -> None:
        run_job(worker, job_id)

    threading.Thread(target=_show_life, args=(worker, sessions), daemon=True, name="sign-of-life").start()
    # solo: CUDA does not survive a fork. Gossip and mingle serve to watch other workers; the record does that.
    options = ["--pool=solo", "--without-gossip", "--without-mingle", "--loglevel=WARNING"]
    app.worker_main(["worker", f"--hostname=melo-{os.getpid()}@%h", *options])


def _show_life(worker: Worker, sessions: sessionmaker[Session]) -> None:
    pause = threading.Event()
    while True:
        try:
            with sessions.begin() as session:
                models = {"loaded": worker.shelf.loaded, "dtype": worker.shelf.dtype}
                jobs.worker_seen(session, worker.name, str(worker.shelf.device), models)
        except OperationalError as error:
            log.warning("the database does not answer", error=str(error.orig))
        pause.wait(SEEN_EVERY_SECONDS)


def _require_noeviction(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as broker:
        try:
            policy = broker.config_get("maxmemory-policy").get("maxmemory-policy")
        except redis.ResponseError:  # a hosted server may not let anyone ask
            return
    if policy not in (None, "noeviction"):
        raise InvalidRequest(
            f"The broker's maxmemory-policy is {policy}: it would throw messages away when memory runs short.",
            "Set maxmemory-policy to noeviction.",
        )
