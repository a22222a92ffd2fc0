"""Limits on how many requests a key may make, and how many wrong keys an address may try."""

import math
import time

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from registry.base import addresses
from registry.base.errors import TooManyRequests, first_line

log = structlog.get_logger("melo.api")

FAILURES = RateLimitItemPerMinute(20)
_REDIS_SECONDS = 0.25  # counting must not delay requests


class Rates:
    """Counts in Redis, so that all processes of the API share one limit.

    Without Redis, or while it is unreachable, each process counts by itself: a registry that refuses everybody would be
    worse than one that counts too little.
    """

    def __init__(self, limit: str, redis_url: str = "") -> None:
        self._limit = parse(limit)
        self._alone = MovingWindowRateLimiter(MemoryStorage())
        self._shared: MovingWindowRateLimiter | None = None
        if redis_url:
            storage = RedisStorage(
                addresses.of_broker(redis_url),
                key_prefix="melo-rates",
                wrap_exceptions=True,
                socket_timeout=_REDIS_SECONDS,
                socket_connect_timeout=_REDIS_SECONDS,
            )
            self._shared = MovingWindowRateLimiter(storage)

    def spend(self, identity: str) -> None:
        """Count a request. Raises TooManyRequests."""
        if not self._hit(self._limit, "requests", identity):
            raise TooManyRequests(
                f"More requests were made than {self._limit}, which is this API's limit for a key.",
                self._wait(self._limit, "requests", identity),
            )

    def failed(self, address: str) -> None:
        """Count a request that was not admitted. Raises TooManyRequests in place of that refusal."""
        if not self._hit(FAILURES, "failures", address):
            raise self._locked(address)

    def _locked(self, address: str) -> TooManyRequests:
        return TooManyRequests(
            f"From {address} came more requests without a valid API key than {FAILURES}.",
            self._wait(FAILURES, "failures", address),
        )

    def _hit(self, item: RateLimitItem, *names: str) -> bool:
        if self._shared is not None:
            try:
                return self._shared.hit(item, *names)
            except StorageError as error:
                _warn(error)
        return self._alone.hit(item, *names)

    def _wait(self, item: RateLimitItem, *names: str) -> int:
        return max(1, math.ceil(self._reset_time(item, *names) - time.time()))

    def _reset_time(self, item: RateLimitItem, *names: str) -> float:
        """Return when the next request may be made."""
        if self._shared is not None:
            try:
                return self._shared.get_window_stats(item, *names).reset_time
            except StorageError as error:
                _warn(error)
        return self._alone.get_window_stats(item, *names).reset_time


def _warn(error: StorageError) -> None:
    log.warning("requests are counted by this process alone", error=first_line(error.storage_error))
