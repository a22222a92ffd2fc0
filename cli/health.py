"""The data of `melo status`: for the stack in MELO_HOME, or for an API elsewhere."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cli.invocation import Invocation
    from embedded.state import ProcessRecord, StackState


def local_status(call: "Invocation") -> dict[str, Any]:
    """Return the status of the stack in MELO_HOME, probing each service."""
    state = call.stack
    if state is None:
        return {"running": False, "home": str(call.home)}
    return {
        "running": True,
        "home": str(call.home),
        "phase": state.phase.value,
        "api_url": state.api_url,
        "serve_url": state.serve_url,
        "uptime_seconds": round(time.time() - state.started_at, 1),
        "notes": state.notes,
        "processes": [_process(record, state) for record in state.processes],
        "schema": _schema(state),
        "queue": _queue(state),
        "collections": _collections(state),
        **(_workers(call) if state.api_url else {"workers": []}),
    }


def remote_status(call: "Invocation", url: str) -> dict[str, Any]:
    """Return the status of a named API: whether it is ready, and which workers it has seen."""
    from registry.client import MeloClientError

    try:
        call.client.ready()
        health = "ready"
    except MeloClientError as error:
        if error.status == 0:
            raise
        health = error.detail
    return {"running": True, "api_url": url, "health": health, **_workers(call)}


def _process(record: "ProcessRecord", state: "StackState") -> dict[str, Any]:
    identity = record.identity
    process = identity.process() if identity else None
    return {
        "name": record.name,
        "pid": identity.pid if identity and process else None,
        "uptime_seconds": round(time.time() - identity.started, 1) if identity and process else None,
        "health": _health(record, state) if process else record.health.value,
        "restarts": record.restarts,
        "last_exit": record.last_exit,
        "log": str(record.log),
    }


def _health(record: "ProcessRecord", state: "StackState") -> str:
    """Return `ready`, or what is currently wrong with the running process."""
    from embedded.state import Health
    from registry.base import probes

    if record.name == "serve" and record.health is Health.STARTING and not _collection_count(state):
        return "waits for the first collection"
    if record.health is not Health.READY:
        return record.health.value
    database, broker, api = state.database_url or "", state.redis_url or "", state.api_url or ""
    asked = {
        "postgres": lambda: probes.of_postgres(database),
        "valkey": lambda: probes.of_broker(broker),
        "api": lambda: probes.of_api(api),
        "relay": lambda: probes.of_relay(database),
        "worker": lambda: probes.of_worker(database),
        "serve": lambda: probes.of_serving(state.serve_url or ""),
    }
    try:
        asked[record.name]()
    except probes.ProbeFailed as reason:
        return str(reason)
    return Health.READY.value


def _collection_count(state: "StackState") -> int:
    from registry.base import probes

    try:
        return probes.collections(state.database_url or "")
    except probes.ProbeFailed:
        return 1  # the database's own line says that it does not answer


def _schema(state: "StackState") -> dict[str, str | None] | None:
    from sqlalchemy.exc import SQLAlchemyError

    from registry.base import database

    if state.database_url is None:
        return None
    engine = database.make_engine(state.database_url)
    try:
        found = database.schema_state(engine)
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()
    return {"revision": found.revision, "head": found.head}


def _queue(state: "StackState") -> dict[str, int] | None:
    from registry.base import probes

    try:
        return probes.queue(state.database_url) if state.database_url else None
    except probes.ProbeFailed:
        return None


def _collections(state: "StackState") -> list[dict[str, Any]]:
    """Return the jobs that wait and run in each collection that has any, or whose queue is not open."""
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.orm import Session

    from registry.base.database import make_engine
    from registry.base.vocabulary import JobState, QueueState
    from registry.metrics import repository

    if state.database_url is None:
        return []
    engine = make_engine(state.database_url)
    try:
        with Session(engine) as session:
            queues, live = repository.queue_states(session), repository.live_jobs(session)
    except SQLAlchemyError:
        return []
    finally:
        engine.dispose()
    found = []
    for name, queue in queues.items():
        queued = [each for each in live if each.collection == name and each.state == JobState.QUEUED]
        running = [each for each in live if each.collection == name and each.state == JobState.RUNNING]
        if queued or running or queue != QueueState.OPEN:
            found.append(
                {
                    "collection": name,
                    "queue": queue,
                    "queued": sum(each.count for each in queued),
                    "running": sum(each.count for each in running),
                    "oldest_seconds": round(max((each.seconds for each in queued), default=0.0), 1),
                }
            )
    return found


def _workers(call: "Invocation") -> dict[str, Any]:
    """Return the workers that were seen, or the reason why they cannot be listed."""
    from registry.client import MeloClientError

    try:
        return {"workers": [worker.model_dump(mode="json") for worker in call.client.workers()]}
    except MeloClientError as error:
        return {"workers": [], "workers_unknown": f"{error.title}: {error.detail}"}
