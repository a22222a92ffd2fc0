"""The follower: a thread that learns of changes in the registry, and tells those who hold what may have changed."""

import threading
from collections.abc import Callable, Sequence

import structlog

from registry.audit.schemas import ChangesView
from serving.sources.port import Source, SourceUnavailable

log = structlog.get_logger("melo.serve")

PAUSE_SECONDS = 0.5  # between two attempts at a source that does not answer


class Follower:
    """Asks its source for changes as long as it runs. What a source that was away had missed, it tells afterwards."""

    def __init__(self, source: Source, listeners: Sequence[Callable[[ChangesView], None]]) -> None:
        """listeners: called with each answer, also with those that say that nothing changed. One that raises
        SourceUnavailable is told the same again.
        """
        self._source, self._listeners = source, listeners
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="melo-follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _follow(self) -> None:
        seq: int | None = None
        answers = True
        while not self._stop.is_set():
            try:
                changes = self._source.changes(seq)
                for listener in self._listeners:
                    listener(changes)
                seq = changes.seq
                if not answers:
                    answers = True
                    log.info("the registry answers again")
            except SourceUnavailable as error:
                if answers:
                    answers = False
                    log.warning("the registry does not answer: what is loaded goes on", error=str(error))
                self._stop.wait(PAUSE_SECONDS)
            except Exception:
                log.exception("changes could not be followed")
                self._stop.wait(PAUSE_SECONDS)
