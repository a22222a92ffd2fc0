"""The Celery application: one task, started by a message that carries a job's id. The row is the job."""

import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version

import redis
import structlog
import torch
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from cli.invocation import console
from registry.audit.trust import signing_of
from registry.base import addresses
from registry.base.database import UNREACHABLE, make_engine, make_sessions, schema_state
from registry.base.errors import InvalidRequest, first_line
from registry.base.model_files import find_model
from registry.base.settings import Settings
from registry.collections import repository as collections
from registry.jobs import outbox
from registry.jobs import service as jobs
from registry.jobs.budget import PreflightBudget
from registry.metrics.exposition import shown
from worker.consuming import Consumed, consume, listen_to_signals
from worker.conversion_line import line_on
from worker.fault_points import FaultPoint, passing
from worker.health import readiness
from worker.limits import limit_memory
from worker.model_cache import ModelCache
from worker.retry import patiently
from worker.stopping import Stop
from worker.training_job import run_waiting
from worker.watch import Worker
from worker.work_loop import WorkLoop

log = structlog.get_logger()

SEEN_EVERY_SECONDS = 3.0
VISIBILITY_SECONDS = 3600  # after which Redis redelivers an unacknowledged message; that only wakes a worker
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")


def make_app(settings: Settings) -> Celery:
    """Make the Celery application.

    Messages are acknowledged after the work, one at a time; losing or repeating one does no harm.
    """
    app = Celery("melo", broker=addresses.of_broker(settings.redis_url))
    app.conf.update(
        broker_transport="worker.transport:Transport",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # the log is JSON, one record a line
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: jobs are processed meanwhile
        broker_channel_error_retry=True,
        broker_transport_options={
            **outbox.TRANSPORT,
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
    )
    return app


def serve(
    settings: Settings,
    *,
    models: Sequence[str] = (),
    at: Callable[[FaultPoint], None] = passing,
    parent: int | None = None,
) -> None:
    """Work until told to stop.

    models: names of the base models to work for; none: all. at: called at every fault point that a job passes. parent:
    the process with which this one ends.

    Raises SchemaMismatch, UnknownModel, or InvalidRequest where the broker would lose messages or a limit cannot be
    enforced. Ends the process with a nonzero status where it cannot continue.
    """
    stop = Stop(settings.stop_seconds)
    listen_to_signals(stop)
    engine = make_engine(settings.database_url, settings.statement_timeout_seconds)
    try:
        patiently(stop, lambda: schema_state(engine).require_current())
    except UNREACHABLE:  # and told to stop
        return
    _require_noeviction(settings.redis_url)
    device = torch.device("cpu") if settings.devices == "cpu" else None
    model_cache = ModelCache(settings.cache, settings.dtype, device, line_on(console(sys.stderr)))
    if settings.memory_limit_mb is not None:
        limit_memory(model_cache.device, settings.memory_limit_mb)
    digests = frozenset(find_model(name).digest for name in models)
    worker = Worker(
        name=f"{socket.gethostname()}/{os.getpid()}",
        sessions=make_sessions(engine, signing=signing_of(settings)),
        model_cache=model_cache,
        lease_seconds=settings.lease_seconds,
        libraries={name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        retry_seconds=settings.retry_seconds,
        job_seconds=settings.job_seconds,
        preflight=PreflightBudget(
            settings.preflight_seconds,
            settings.preflight_near_misses,
            settings.preflight_tokens,
            settings.preflight_steps,
        ),
        models=digests or None,
        stop=stop,
        at=at,
    )
    with shown(settings, worker.metrics.registry, readiness(settings.redis_url, worker.sessions, worker.name)):
        status = _run(settings, worker, parent)
    engine.dispose()
    if status:
        sys.exit(status)


def _run(settings: Settings, worker: Worker, parent: int | None) -> int:
    app, loop = make_app(settings), WorkLoop(lambda: run_waiting(worker), worker.stop)

    @app.task(name=jobs.TRAIN)  # type: ignore[untyped-decorator]
    def train(job_id: int) -> None:
        loop.wake_and_wait()
        worker.at(FaultPoint.ACKNOWLEDGING)

    def connected() -> None:
        """Verify the broker's settings again and wake the worker: messages may have been lost meanwhile."""
        _require_noeviction(settings.redis_url)
        loop.wake()

    consumed = Consumed([outbox.queue_of(digest) for digest in worker.models or ()])
    loop.start()
    threading.Thread(target=_show_life, args=(worker, consumed, parent), daemon=True, name="sign-of-life").start()
    status = consume(app, consumed, worker.stop, connected)
    if not worker.stop.asked:
        worker.stop.ask()
    if not loop.close():
        log.warning("a job that does not listen is cut off with its process")
        sys.stdout.flush()
        os._exit(status)  # an ordinary exit would wait for it
    return status


def _show_life(worker: Worker, consumed: Consumed, parent: int | None) -> None:
    while True:
        if parent is not None and os.getppid() != parent and not worker.stop.asked:
            log.warning("the process that started this one has ended")
            os.kill(os.getpid(), signal.SIGTERM)
        # No error may end this thread, including the log's when memory is full.
        with suppress(Exception):
            _say_alive(worker, consumed)
        time.sleep(SEEN_EVERY_SECONDS)


def _say_alive(worker: Worker, consumed: Consumed) -> None:
    try:
        with worker.sessions.begin() as session:
            models = {"loaded": worker.model_cache.loaded, "dtype": worker.model_cache.dtype}
            jobs.worker_seen(session, worker.name, worker.model_cache.device_name, models)
        if worker.models is None:
            _look_for_queues(worker.sessions, consumed)
    except Exception as error:
        log.warning("no sign of life", error=first_line(error), exc_info=not isinstance(error, UNREACHABLE))


def _look_for_queues(sessions: sessionmaker[Session], consumed: Consumed) -> None:
    """Listen to new queues: a collection over another base model may have been created."""
    with sessions() as session:
        for digest in collections.base_models(session):
            consumed.add(outbox.queue_of(digest))


def _require_noeviction(redis_url: str) -> None:
    """Raise InvalidRequest where the broker would evict messages. One that is away is asked when it is back."""
    url = addresses.of_broker(redis_url)
    with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as broker:
        try:
            policy = broker.config_get("maxmemory-policy").get("maxmemory-policy")
        except redis.ResponseError:  # a hosted server may not allow the query
            return
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("the broker does not answer: looking for work without it", error=str(error))
            return
    if policy not in (None, "noeviction"):
        raise InvalidRequest(
            f"The broker's maxmemory-policy is {policy}: it would discard messages when memory runs short.",
            "Set maxmemory-policy to noeviction.",
        )
