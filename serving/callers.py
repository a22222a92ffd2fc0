"""Who may ask: a key is looked up at the source, and what it said holds for a while."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from registry.access.caller import Caller
from registry.access.service import require_unexpired
from registry.audit.schemas import ChangesView
from registry.base.digests import sha256_hex
from registry.base.errors import Unauthorized
from serving.sources.port import Source, SourceUnavailable

FRESH_SECONDS = 30.0  # a key that was revoked is admitted for no longer, while the source answers
KNOWN_SECONDS = 15 * 60.0  # how long a key goes on being admitted that the source cannot be asked about
PAUSE_SECONDS = 2.0  # between two attempts at a source that does not answer
MOST_KEYS = 10_000


@dataclass(frozen=True)
class _Known:
    caller: Caller
    at: float


class Callers:
    """The keys that were looked up, by their digests."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._clock = source, clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._changed = float("-inf")  # when a key was last made or revoked
        self._ask_again = float("-inf")
        self._lock = threading.Lock()

    def authenticate(self, request: Request, key: str) -> Caller:
        """Return whose a request's key is, for the gate. Raises Unauthorized or SourceUnavailable."""
        return self.of(key)

    def of(self, key: str) -> Caller:
        """Return whose key it is. Raises Unauthorized, or SourceUnavailable for one that was not asked about lately."""
        digest, now = sha256_hex(key.encode()), self._clock()
        with self._lock:
            known, pausing = self._known.get(digest), now < self._ask_again
        if known is not None and known.at > max(now - FRESH_SECONDS, self._changed):
            require_unexpired(known.caller, now - known.at)
            return known.caller
        try:
            if pausing:
                raise SourceUnavailable("The registry does not answer, so new keys cannot be checked.", "Ask again.")
            caller = self._source.caller(key)
        except SourceUnavailable:
            if not pausing:
                with self._lock:
                    self._ask_again = self._clock() + PAUSE_SECONDS
            if known is None or known.at <= now - KNOWN_SECONDS:
                raise
            require_unexpired(known.caller, now - known.at)
            return known.caller
        except Unauthorized:
            with self._lock:
                self._known.pop(digest, None)
            raise
        with self._lock:
            self._known[digest] = _Known(caller, now)
            self._known.move_to_end(digest)
            while len(self._known) > MOST_KEYS:
                self._known.popitem(last=False)
        return caller

    def changed(self, changes: ChangesView) -> None:
        """Look every key up again, once, if one was made or revoked."""
        if changes.keys:
            self._changed = self._clock()
