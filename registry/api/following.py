"""Follows the record: streams the progress of a batch as server-sent events, and waits for changes."""

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import structlog
from anyio.to_thread import run_sync
from fastapi import Request
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sse_starlette import ServerSentEvent

from registry.access.caller import Caller
from registry.audit import changes
from registry.audit.schemas import ChangesView
from registry.base.errors import TooManyRequests, first_line
from registry.base.wire import standalone_schema
from registry.batches import service
from registry.batches.schemas import BatchProgress
from registry.collections.changes import view_of

log = structlog.get_logger("melo.api")

EVENTS = "text/event-stream"
SHOWN: dict[str, Any] = {
    "schema": {
        "type": "object",
        "description": "an event of the stream",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": ["progress", "end"]},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": standalone_schema(BatchProgress),
            },
        },
    },
    "example": {"event": "progress", "data": '{"id": 3, "state": "training", "progress": {"done": 12, "loss": 0.37}}'},
}
POLL_SECONDS = 0.5
CHANGE_POLL_SECONDS = 0.2
PING_SECONDS = 15  # a comment is sent so that proxies keep the connection open
SEND_SECONDS = 30  # a client that has not read for this long is gone
LONGEST_SECONDS = 3600.0  # then the client must reconnect, and is authorised again
MOST_STREAMS = 20  # open at once per key, in this process


class Streams:
    """Counts the answers that are being streamed to each caller."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self, identity: str) -> Iterator[None]:
        """Count one more stream for the duration of the block. Raises TooManyRequests."""
        with self._lock:
            if self.open[identity] >= MOST_STREAMS:
                raise TooManyRequests(
                    f"{MOST_STREAMS} batches are already followed with this key, which is the limit.", PING_SECONDS
                )
            self.open[identity] += 1
        try:
            yield
        finally:
            with self._lock:
                self.open[identity] -= 1


def one_more(request: Request) -> Iterator[None]:
    """Count a stream until its answer has ended; a dependency."""
    caller: Caller = request.state.caller
    streams: Streams = request.app.state.streams
    with streams.one_more(caller.identity):
        yield


async def events(sessions: sessionmaker[Session], batch_id: int) -> AsyncIterator[ServerSentEvent]:
    """Yield the batch's progress whenever it changes. Neither a connection nor a thread is held between two polls."""
    told: BatchProgress | None = None
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until:
        now = await run_sync(_look, sessions, batch_id)
        if now is not None and now.state.is_over:
            yield ServerSentEvent(now.model_dump_json(), event="end")
            return
        if now is not None and now != told:
            yield ServerSentEvent(now.model_dump_json(), event="progress")
            told = now
        await anyio.sleep(POLL_SECONDS)


def _look(sessions: sessionmaker[Session], batch_id: int) -> BatchProgress | None:
    """Return the progress of the batch, or None while the database is unreachable, which may be temporary."""
    try:
        with sessions() as session:
            return service.progress(session, batch_id)
    except (OperationalError, PoolTimeout) as error:
        log.warning("a batch cannot be followed for now", batch=batch_id, error=first_line(error))
        return None


async def changes_after(
    engine: Engine, after: int | None, seconds: float, visible: frozenset[int] | None
) -> ChangesView:
    """Return what the caller may see of what changed after an event: at once where something did, else when it does.

    After some seconds the answer is that nothing did. Neither a connection nor a thread is held between two looks.
    """
    until = time.monotonic() + seconds
    while True:
        found = await run_sync(_changes_after, engine, after, visible)
        if found.tells or time.monotonic() >= until:
            return found
        after = found.seq
        await anyio.sleep(CHANGE_POLL_SECONDS)


def _changes_after(engine: Engine, after: int | None, visible: frozenset[int] | None) -> ChangesView:
    with engine.connect() as connection:
        return view_of(Session(connection), changes.since(connection, after), visible)
