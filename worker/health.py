"""The readiness that a worker reports at its port."""

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from registry.base import probes
from registry.base.database_errors import explained
from registry.base.probes import ProbeFailed
from registry.jobs import repository
from registry.metrics.exposition import Ready


def readiness(redis_url: str, sessions: sessionmaker[Session], worker: str) -> Ready:
    """Return the probe of a worker's readiness: broker and database answer, and it was seen there recently."""

    def require_ready() -> None:
        probes.of_broker(redis_url)
        try:
            with sessions() as session:
                is_seen = repository.any_worker(session, named=worker)
        except SQLAlchemyError as error:
            raise ProbeFailed(explained(error).detail.rstrip(".")) from error
        if not is_seen:
            raise ProbeFailed(f"the worker has given no sign of life for {probes.WORKER_SILENCE_SECONDS} s")

    return require_ready
