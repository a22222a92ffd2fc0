"""Signs of life: one question per service, asked by the supervisor and by health checks alike.

Each returns if the service does its work, and raises ProbeFailed with the reason if it does not (yet).
"""

import httpx
import psycopg
import redis
from psycopg.conninfo import make_conninfo
from redis.backoff import NoBackoff
from redis.retry import Retry

from registry.base import addresses
from registry.base.database_errors import explained
from registry.base.errors import UserError, first_line

OLDEST_UNSENT_SECONDS = 30
WORKER_SILENCE_SECONDS = 30  # a worker whose last heartbeat is older counts as gone


class ProbeFailed(Exception):
    """The service does not answer or is not working; the message says what was observed."""


def of_postgres(url: str) -> None:
    """Probe the database, which may be read-only."""
    _one_number(url, "SELECT 1")


def of_writable(url: str) -> None:
    """Probe the database, which must not be read-only, as in maintenance or after a failover."""
    if _one_number(url, "SELECT current_setting('transaction_read_only')::bool::int"):
        raise ProbeFailed("the database is read-only")


def of_broker(url: str) -> None:
    try:
        once = Retry(NoBackoff(), 0)  # the caller decides whether to ask again
        given = addresses.of_broker(url)
        with redis.Redis.from_url(given, socket_timeout=3, socket_connect_timeout=3, retry=once) as broker:
            broker.ping()
    except (redis.RedisError, UserError, ValueError, OSError) as error:
        raise ProbeFailed(f"the broker does not answer: {first_line(error)}") from error


def of_api(api_url: str) -> None:
    """Probe the API, which must be ready, not only alive: its database answers and has this program's schema."""
    try:
        answer = httpx.get(f"{api_url}/readyz", timeout=3)
    except httpx.HTTPError as error:
        raise ProbeFailed(f"the API does not answer: {first_line(error)}") from error
    if answer.status_code != 200:
        raise ProbeFailed(f"the API answers {answer.status_code}: {answer.text[:300]}")


def of_serving(url: str) -> None:
    """Probe a server that answers questions."""
    try:
        answer = httpx.get(f"{url}/health", timeout=3)
    except httpx.HTTPError as error:
        raise ProbeFailed(f"the server does not answer: {first_line(error)}") from error
    if answer.status_code != 200:
        raise ProbeFailed(f"the server answers {answer.status_code}: {answer.text[:300]}")


def of_relay(database_url: str) -> None:
    """Probe the relay by the outbox: no message has waited long, so what should be sent is sent."""
    unsent = _one_number(
        database_url,
        "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND created_at < now() - make_interval(secs => %s)",
        OLDEST_UNSENT_SECONDS,
    )
    if unsent:
        raise ProbeFailed(f"{unsent} messages wait in the outbox for more than {OLDEST_UNSENT_SECONDS} s")


def of_worker(database_url: str, within_seconds: float = WORKER_SILENCE_SECONDS, host: str = "") -> None:
    """Probe for a recent heartbeat of a worker (on the given host, if one is named)."""
    seen = _one_number(
        database_url,
        "SELECT count(*) FROM worker_heartbeats"
        " WHERE seen_at > now() - make_interval(secs => %s) AND strpos(worker, %s) > 0",
        within_seconds,
        host,
    )
    if not seen:
        raise ProbeFailed(f"no worker was seen in the last {within_seconds:.0f} s")


def queue(database_url: str) -> dict[str, int]:
    """Count the jobs that wait, the jobs that run, and the messages still to be sent."""
    return {
        "queued": _one_number(database_url, "SELECT count(*) FROM jobs WHERE state = 'queued'"),
        "running": _one_number(database_url, "SELECT count(*) FROM jobs WHERE state = 'running'"),
        "unsent": _one_number(database_url, "SELECT count(*) FROM outbox WHERE sent_at IS NULL"),
    }


def collections(database_url: str) -> int:
    """Count the collections."""
    return _one_number(database_url, "SELECT count(*) FROM collections")


def _one_number(database_url: str, query: str, *values: object) -> int:
    try:
        given = addresses.of_database(database_url) | {"connect_timeout": "3", "client_encoding": "utf8"}
        with psycopg.connect(make_conninfo(**given), prepare_threshold=None) as connection:
            row = connection.execute(query.encode(), values).fetchone()
    except UserError as error:
        raise ProbeFailed(error.detail.rstrip(".")) from error
    except psycopg.Error as error:
        raise ProbeFailed(_begun_small(explained(error).detail)) from error
    return int(row[0]) if row else 0


def _begun_small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
